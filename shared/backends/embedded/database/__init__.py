"""The SQLite database: its schema, and its changes, each of which is one transaction."""
