"""Helpers of the tests: private servers, a TCP proxy that breaks connections on cue, processes that always end."""
