"""The engine for OpenAI-compatible servers, and the translation of their answers into OpenAI's types.

Servers differ from OpenAI's protocol in many ways, and only this package knows how: `body` and `sse` split bytes into
events, and `normalizing` translates events into chunks. `failures` translates errors; `request_fields` adapts requests.
"""
