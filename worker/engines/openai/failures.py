"""Translates a server's errors into Ignite's, by whether another try can help. No I/O.

A refusal means that the request is invalid: the client gets the server's message at once. After an overload the request
waits. Every other error is a failed try.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import orjson

from shared.errors import EngineError, EngineOverloaded, EngineRefused, IgniteError
from worker.engines.openai.retry_after import WAIT_FIELDS, retry_after

REFUSALS = frozenset({400, 402, 404, 405, 406, 409, 410, 411, 413, 414, 415, 416, 417, 422, 431, 451})
"""HTTP statuses after which another try cannot help."""

OVERLOADS = frozenset({429, 503, 529})
"""HTTP statuses of an overloaded server."""

REFUSAL_TYPES = frozenset(
    {
        *("invalid_request_error", "invalid_request", "badrequesterror", "notfounderror", "unprocessableentityerror"),
        *("exceed_context_size_error", "content_filter", "moderation_error", "permission_error", "not_found_error"),
        *("request_too_large", "unsupported_value", "context_length_exceeded", "string_above_max_length"),
    }
)
SPENT = frozenset(
    {
        *("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error", "quota_exceeded"),
        *("exceeded_current_quota_error", "insufficient_user_quota", "insufficient_balance", "arrearage"),
    }
)
"""Codes and types that servers send with 429 although waiting does not help. All tables are in lower case."""

OVERLOADED = re.compile(
    r"rate_?limit|overload|too_?many_?requests|resource_?exhausted|throttl|server_?busy|slow_?down|limit_requests"
)
"""Codes and types of an overload, with any HTTP status."""

SOUNDS_OVERLOADED = re.compile(r"(?i)\boverloaded\b|\brate.?limit|\btoo many requests|\bat capacity\b")
"""Words in a message by which a refusal counts as a failed try. The worker does not pause, because the words may be a
quotation of the request.
"""

SOUNDS_TOO_LONG = re.compile(
    r"(?i)maximum context|context (length|window|size).{0,40}(exceed|too)|exceeds?.{0,40}context (length|window|size)"
    r"|maximum model length|prompt is too long"
)

TOO_LONG = "context_length_exceeded"
KEY_REFUSED = "upstream_key_refused"
TAG = re.compile(r"(?is)<(script|style|title)\b.*?</\1>|<[^>]*>")
WORDS = 500
"""Characters of a server's message that are passed on at most."""


class UpstreamFailed(EngineError):
    """The server has answered with the error object `said`; another try may succeed."""

    def __init__(self, message: str, said: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.said = said


def of_status(status: int, headers: Mapping[str, str], body: bytes) -> IgniteError:
    """Returns the error of an answer whose HTTP status is not 2xx."""
    said = error_object(body)
    if status == 401 or (status == 403 and not _is_error_object(body)):
        return key_refused(status)
    words = words_of(said) or f"HTTP status {status}"
    return _error(status, headers, said, failed=f"The engine's server answered {status}: {words}")


def in_band(error: Any) -> IgniteError:
    """Returns the error in an HTTP 200 answer. Its `code` is often an HTTP status.

    An overload without a time to wait is a failed try: it may be a permanent limit, and the client should get the
    server's message after a few tries instead of at the deadline.
    """
    said: dict[str, Any] = cast(dict[str, Any], error) if isinstance(error, dict) else {"message": error}
    inner = said.get("error")
    if inner and isinstance(inner, (dict, str)):
        found: dict[str, Any] = {"message": inner} if isinstance(inner, str) else cast(dict[str, Any], inner)
        outer = {key: said[key] for key in WAIT_FIELDS & said.keys()}
        return in_band({**outer, **found})
    status = _status(said)
    if status == 401:
        return key_refused(status)
    failed = f"The engine failed: {words_of(said) or 'it gave no reason.'}"
    found_error = _error(status, {}, said, failed=failed)
    if isinstance(found_error, EngineOverloaded) and found_error.retry_after is None:
        return UpstreamFailed(failed, said)
    return found_error


def _error(status: int | None, headers: Mapping[str, str], said: Mapping[str, Any], failed: str) -> IgniteError:
    names = _names(said)
    words = words_of(said)
    if names & SPENT or names & REFUSAL_TYPES or SOUNDS_TOO_LONG.search(words):
        return refusal(said)
    if status in OVERLOADS or any(map(OVERLOADED.search, names)):
        message = f"The engine's server is overloaded: {words or f'HTTP status {status}'}"
        return EngineOverloaded(message, retry_after=retry_after(headers, {**said, "message": words}))
    if (status in REFUSALS or status == 403) and not SOUNDS_OVERLOADED.search(words):
        return refusal(said)
    return UpstreamFailed(failed, said)


def refusal(said: Mapping[str, Any]) -> EngineRefused:
    """Returns the refusal with the server's message, code and parameter."""
    message = words_of(said) or "The engine refused the request without a reason."
    code = _code(said, message)
    param = said.get("param")
    if not (isinstance(param, str) and param):
        param = "messages" if code == TOO_LONG else None
    return EngineRefused(message, code=code, param=param)


def key_refused(status: int) -> EngineError:
    return EngineError(f"The engine's server refuses the worker's API key (HTTP {status}).", code=KEY_REFUSED)


def malformed(what: str, arrived: Any) -> EngineError:
    """Returns the error of an answer that does not follow OpenAI's protocol, with its first characters."""
    text = arrived.decode(errors="replace") if isinstance(arrived, bytes) else _json(arrived)
    shown = text if len(text) <= 200 else f"{text[:200]}…"
    return EngineError(f"The engine's server does not answer as an OpenAI server: {what}. It sent: {shown}")


def error_object(body: bytes) -> dict[str, Any]:
    """Reads OpenAI's `{"error": {…}}`, the bare object of older servers, FastAPI's `detail`, or plain text."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": _plain(body[: 4 * WORDS].decode(errors="replace"))}
    if isinstance(found, list) and found:  # Google's
        found = cast(Any, found[0])
    if not isinstance(found, dict):
        return {"message": found}
    named = cast(dict[str, Any], found)
    error: Any = named.get("error") or named
    return cast(dict[str, Any], error) if isinstance(error, dict) else {**named, "message": error}


def words_of(said: Mapping[str, Any]) -> str:
    """Returns the server's message, from any of the fields that servers use for it."""
    for key in (
        "message",
        "detail",
        "details",
        "error",
        "errors",
        "msg",
        "error_message",
        "status_msg",
        "title",
        "reason",
    ):
        if words := _text(said.get(key)):
            return words[:WORDS]
    rest = {key: value for key, value in said.items() if value not in (None, "", [], {})}
    return _json(rest)[:WORDS] if rest else ""


def _text(value: Any) -> str:
    """Reads text, a nested error object, or pydantic's list of errors."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict):
        return words_of(cast(dict[str, Any], value))
    if isinstance(value, list):
        return "; ".join(filter(None, (_validation_error(item) for item in cast(list[Any], value)[:5])))
    return "" if value is None or value is False else str(value)


def _validation_error(item: Any) -> str:
    if not isinstance(item, dict):
        return _text(item)
    found = cast(dict[str, Any], item)
    location = found.get("loc")
    named = ".".join(str(part) for part in cast(list[Any], location)) if isinstance(location, list) else ""
    return ": ".join(filter(None, (named, words_of(found))))


def _plain(text: str) -> str:
    """Returns a text, or the text of an HTML page."""
    text = text.strip()
    return " ".join(TAG.sub(" ", text).split()) if text.startswith("<") else text


def _is_error_object(body: bytes) -> bool:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and bool(words_of(error_object(body)))


def _names(said: Mapping[str, Any]) -> set[str]:
    """Returns the error's code, type and status in lower case, if they are text."""
    found = (said.get(key) for key in ("code", "type", "status"))
    return {name.lower() for name in found if isinstance(name, str)}


def _status(said: Mapping[str, Any]) -> int | None:
    for key in ("code", "status", "status_code", "http_status"):
        value = said.get(key)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


def _code(said: Mapping[str, Any], message: str) -> str | None:
    if said.get("type") == "exceed_context_size_error" or SOUNDS_TOO_LONG.search(message):
        return TOO_LONG
    code = said.get("code")
    return code if isinstance(code, str) and code and not code.isdigit() else None


def _json(value: Any) -> str:
    return orjson.dumps(value, default=repr).decode(errors="replace")
