"""Engines. `base` defines the interface, and `open_engine` creates an engine from its options."""
