"""OpenAI's request and answer, translated for engines and back."""
