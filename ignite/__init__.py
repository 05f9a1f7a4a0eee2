"""The command line, and the one place that wires producer and worker together."""

__version__ = "0.1.0"
