"""What only vLLM can: continuing an answer from the ids of its tokens, and scheduling by priority."""
