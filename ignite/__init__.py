"""The command line. Only this package connects producer and worker."""

__version__ = "0.1.0"
