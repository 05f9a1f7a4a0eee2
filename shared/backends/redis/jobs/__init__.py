"""Job records, logs and indexes on Redis."""
