"""A batch's input file: read, split into lines, and validated."""
