"""Folds, encodes and resumes streamed answers."""
