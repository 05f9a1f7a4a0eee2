"""OpenAI's Files API: clients' uploads and the output files of batches."""
