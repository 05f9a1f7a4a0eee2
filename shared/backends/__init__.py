"""The backends behind the ports, and the one door to them."""
