"""What a worker reports of its jobs: logs and metrics."""
