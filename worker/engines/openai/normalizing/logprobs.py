"""Translates log probabilities into OpenAI's format. No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

LOWEST = -9999.0
"""OpenAI's value for a very improbable token; also used for a value that is not a number."""


def normalized(logprobs: Any) -> dict[str, Any] | None:
    """Returns `{"content": [...] or None, "refusal": [...] or None}`, or None for a chunk without log probabilities."""
    if not logprobs or not isinstance(logprobs, (dict, list)):
        return None
    received: dict[str, Any] = {"content": logprobs} if isinstance(logprobs, list) else cast(dict[str, Any], logprobs)
    if isinstance(received.get("tokens"), list):
        received = {"content": _from_completions(received)}
    found = {name: _tokens(received.get(name)) for name in ("content", "refusal")}
    return found if found["content"] or found["refusal"] else None


def _from_completions(received: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Reads the format of OpenAI's older completions API: parallel lists."""
    alternatives = _list(received.get("top_logprobs"))
    values = _list(received.get("token_logprobs"))
    return [
        {
            "token": token,
            "logprob": values[at] if at < len(values) else None,
            "top_logprobs": alternatives[at] if at < len(alternatives) else None,
        }
        for at, token in enumerate(received["tokens"])
    ]


def _tokens(tokens: Any) -> list[dict[str, Any]] | None:
    found = [_token(cast(dict[str, Any], token)) for token in _list(tokens) if isinstance(token, dict)]
    return found or None


def _token(token: Mapping[str, Any]) -> dict[str, Any]:
    top = token.get("top_logprobs")
    if isinstance(top, dict):
        top = [{"token": text, "logprob": value} for text, value in cast(dict[str, Any], top).items()]
    return {
        **_entry(token),
        "top_logprobs": [_entry(cast(dict[str, Any], other)) for other in _list(top) if isinstance(other, dict)],
    }


def _entry(token: Mapping[str, Any]) -> dict[str, Any]:
    text, value, data = token.get("token"), token.get("logprob"), token.get("bytes")
    return {
        **token,
        "token": text if isinstance(text, str) else "" if text is None else str(text),
        "logprob": _number(value),
        "bytes": data if _is_bytes(data) else None,
    }


def _is_bytes(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 256 for each in cast(list[Any], value))


def _number(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else LOWEST


def _list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []
