"""Finds the wait that a server asks for: in headers, in its error object, or in its message. No I/O."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, cast

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
WORDS = re.compile(
    r"(?i)(?:again|retry|reset|wait)\D{0,20}?(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|sec(?:ond)?s?|m(?:in)?)\b"
)
"""`Please try again in 1.898s`, `Please retry after 6 seconds`."""

EPOCH = 1e9
"""Greater numbers are Unix times, in seconds or in milliseconds."""

WAIT_FIELDS = frozenset({"retryDelay", "retry_after", "retry_after_seconds", "retryAfter"})
"""Fields of an error object with the time to wait."""

LIMITS = ("requests", "tokens", "")


def retry_after(headers: Mapping[str, str], said: Mapping[str, Any]) -> float | None:
    """Returns seconds, or None. Reads retry headers first, then rate limit headers, the object's fields, its
    message.
    """
    for found in (_of_headers(headers), _of_resets(headers), _of_object(said), _of_words(said)):
        if found is not None:
            return found
    return None


def _of_headers(headers: Mapping[str, str]) -> float | None:
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("Retry-After")
    if value is None:
        return None
    if (seconds := _seconds(value)) is not None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _of_resets(headers: Mapping[str, str]) -> float | None:
    """Reads headers like OpenAI's `x-ratelimit-reset-tokens: 6m0s`, of exhausted limits only."""
    resets = [
        seconds
        for prefix in ("x-ratelimit", "ratelimit")
        for limit in LIMITS
        if (_number(headers.get(_header(prefix, "remaining", limit))) or 0) < 1
        and (seconds := _seconds(headers.get(_header(prefix, "reset", limit)))) is not None
    ]
    return max(resets, default=None)


def _of_object(said: Mapping[str, Any]) -> float | None:
    """Reads Google's `RetryInfo`, and fields like `retry_after`."""
    for each in _objects(said):
        for name in WAIT_FIELDS:
            value = each.get(name)
            if isinstance(value, (int, float, str)) and (seconds := _seconds(str(value))) is not None:
                return seconds
    return None


def _objects(said: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield dict(said)
    for name in ("details", "metadata"):
        inner = said.get(name)
        for each in cast(list[Any], inner) if isinstance(inner, list) else [inner]:
            if isinstance(each, dict):
                yield cast(dict[str, Any], each)


def _of_words(said: Mapping[str, Any]) -> float | None:
    words = said.get("message")
    found = WORDS.search(words[:500]) if isinstance(words, str) else None
    if found is None:
        return None
    unit = found[2].lower()
    scale = "ms" if unit.startswith(("ms", "mil")) else unit[0]
    return float(found[1]) * UNITS[scale]


def _seconds(value: str | None) -> float | None:
    """Reads a number of seconds, a duration such as `1m30.5s`, or a Unix time."""
    if value is None:
        return None
    value = value.strip()
    number = _number(value)
    if number is not None and number > EPOCH:
        return max(0.0, (number / 1000 if number > 1000 * EPOCH else number) - time.time())
    if number is not None:
        return number
    parts = DURATION.findall(value)
    if not parts or DURATION.sub("", value).strip():
        return None
    return sum(float(count) * UNITS[unit] for count, unit in parts)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < 1e15 else None


def _header(prefix: str, kind: str, limit: str) -> str:
    return f"{prefix}-{kind}-{limit}" if limit else f"{prefix}-{kind}"
