"""HTTP/1.1 on one connection: parsed, bounded in bytes and in time."""
