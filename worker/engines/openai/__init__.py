"""What OpenAI-compatible servers send, made into OpenAI's own types.

Servers speak OpenAI's protocol with an accent. All that is known of their accents is in this package: bytes become
events (`body`, `sse`), and events become clean chunks (`normalizing`). `failures` and `request_fields` hold the tables.
"""
