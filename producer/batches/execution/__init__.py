"""A batch in progress: its lines become jobs, and their answers become files."""
