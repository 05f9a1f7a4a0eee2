"""What is accepted: limits, estimates, and what a request may ask for."""
