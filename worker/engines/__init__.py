"""What generates. `base` holds the promises, `open_engine` is the only door, each engine is a file or two."""
