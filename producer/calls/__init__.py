"""Endpoints that an engine answers with one JSON object: embeddings, completions, rerank, score, tokenize."""
