"""Everything in one process, over one SQLite file."""
