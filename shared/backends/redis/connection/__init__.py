"""Connections to one Redis server or to a cluster."""
