"""Decides which requests are accepted: queue limits, rate limits, token estimates and request fields."""
