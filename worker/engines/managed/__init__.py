"""A serving process such as `vllm serve`, started, watched and restarted."""
