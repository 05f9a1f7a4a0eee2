"""An answer as a stream: folded, encoded as frames, and resumed."""
