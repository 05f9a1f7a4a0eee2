"""Starts, watches and restarts a serving process such as `vllm serve`."""
