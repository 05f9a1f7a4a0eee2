"""Events become values (`json_text`), and values become OpenAI's chunks (`normalizer`, with `delta`, `tool_calls`,
`logprobs`, `usage`). `finish_reasons` holds the table. No I/O.
"""
