"""API keys: authentication, limits and revocation."""
