"""Parses HTTP/1.1 on one connection and bounds its bytes and its time."""
