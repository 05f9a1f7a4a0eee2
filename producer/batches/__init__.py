"""OpenAI's Batch API: a file of requests, run as ordinary jobs, into a file of answers."""
