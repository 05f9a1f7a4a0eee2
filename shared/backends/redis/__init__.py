"""The part of the distributed backend that uses Redis: jobs, logs, limits, documents, registry."""
