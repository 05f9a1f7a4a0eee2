"""The middleware around every request: limits, authentication, CORS, errors, and a fast path to the busiest routes."""
