"""What OpenAI-compatible servers send, made into OpenAI's own types.

Servers speak OpenAI's protocol with an accent. All that is known of their accents is in this package: bytes become
events (`body`, `sse`), events become values (`json_text`), and values become clean chunks (`normalizer`, with `delta`,
`tool_calls`, `logprobs`, `usage`). `finish_reasons`, `failures` and `request_fields` hold the tables. No I/O.
"""
