"""Translates an answer's usage into OpenAI's format. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

NAMES = {
    "prompt_tokens": ("prompt_tokens", "input_tokens", "prompt_token_count", "promptTokens"),
    "completion_tokens": ("completion_tokens", "output_tokens", "candidates_token_count", "completionTokens"),
    "total_tokens": ("total_tokens", "total_token_count", "totalTokens"),
}
MOST = 2**53
"""Greater counts are ignored."""
COUNTS = tuple(NAMES)
DETAILS = ("prompt_tokens_details", "completion_tokens_details")
RENAMED = frozenset(name for names in NAMES.values() for name in names)


def in_chunk(chunk: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns a chunk's usage, from `usage` or from Groq's `x_groq.usage`."""
    for holder in (chunk, chunk.get("x_groq")):
        found: Any = cast(dict[str, Any], holder).get("usage") if isinstance(holder, dict) else None
        if found and isinstance(found, dict):
            return cast(dict[str, Any], found)
    return None


def completed(usage: Mapping[str, Any] | None, counted: int) -> dict[str, Any]:
    """Returns the usage with all counts; missing ones are computed from the others.

    `counted`: the number of received pieces of text, about one per token, for servers that report no usage.
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
