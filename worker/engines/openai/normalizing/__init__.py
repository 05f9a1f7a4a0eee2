"""Translates a server's events into OpenAI's chunks. `json_text` decodes events; `normalizer` translates the values,
with `delta`, `tool_calls`, `logprobs`, `usage` and `finish_reasons` for the parts of a chunk. No I/O.
"""
