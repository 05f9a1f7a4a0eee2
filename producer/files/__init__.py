"""OpenAI's Files API: what clients upload, and what batches write for them."""
