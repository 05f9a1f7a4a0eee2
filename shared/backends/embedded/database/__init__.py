"""The SQLite file: its schema, and each change as one transaction."""
