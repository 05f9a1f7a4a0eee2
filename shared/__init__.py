"""What the producer and the worker must agree on: errors, requests, jobs, ports and the backends behind them."""
