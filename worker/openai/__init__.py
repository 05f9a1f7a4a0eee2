"""Translates OpenAI's requests for engines, and their answers back."""
