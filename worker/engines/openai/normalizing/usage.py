"""What an answer cost, as OpenAI counts it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

NAMES = {
    "prompt_tokens": ("prompt_tokens", "input_tokens", "prompt_token_count", "promptTokens"),
    "completion_tokens": ("completion_tokens", "output_tokens", "candidates_token_count", "completionTokens"),
    "total_tokens": ("total_tokens", "total_token_count", "totalTokens"),
}
MOST = 2**53
"""Tokens that a count may say: what is more is none."""
COUNTS = tuple(NAMES)
DETAILS = ("prompt_tokens_details", "completion_tokens_details")
RENAMED = frozenset(name for names in NAMES.values() for name in names)


def in_chunk(chunk: Mapping[str, Any]) -> dict[str, Any] | None:
    """The usage that a chunk has, in its own place or in Groq's."""
    for holder in (chunk, chunk.get("x_groq")):
        found: Any = cast(dict[str, Any], holder).get("usage") if isinstance(holder, dict) else None
        if found and isinstance(found, dict):
            return cast(dict[str, Any], found)
    return None


def completed(usage: Mapping[str, Any] | None, counted: int) -> dict[str, Any]:
    """A whole usage: what the server leaves out follows from the rest.

    `counted` are the pieces of text that came: a server that does not count sends about one per token.
    """
    usage = usage or {}
    prompt, completion, total = (_count(usage, NAMES[name]) for name in COUNTS)
    if completion is None:
        completion = total - prompt if total is not None and prompt is not None and total >= prompt else counted
    if prompt is None:
        prompt = max(0, total - completion) if total is not None else 0
    rest = {key: value for key, value in usage.items() if key not in RENAMED and value is not None}
    for name in DETAILS:
        if name in rest and not isinstance(rest[name], dict):
            del rest[name]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion if total is None else total,
        **rest,
    }


def _count(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, str) and value.isdecimal():
            value = int(value[:16])
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < MOST:
            return int(value)
    return None
