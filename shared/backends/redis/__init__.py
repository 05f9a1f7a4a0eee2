"""Jobs, logs, limits and documents on Redis."""
