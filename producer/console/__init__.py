"""The console: static files of a browser application that uses the public HTTP API and nothing else."""
