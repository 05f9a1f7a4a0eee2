"""API keys: who calls, what the key allows, and what follows when it is revoked."""
