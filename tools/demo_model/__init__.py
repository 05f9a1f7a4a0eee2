"""Trains the demo model that worker/engines/demo_model ships."""
