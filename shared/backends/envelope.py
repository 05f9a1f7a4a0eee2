"""A message's envelope as flat headers of strings, for any queue that carries headers beside a body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.backends.spec import decode_spec, encode_spec
from shared.ports import Message


def encode_envelope(message: Message) -> dict[str, str | bool]:
    """Everything but the body. An absent body (the store has it) is told from an empty one by `x-body`."""
    headers: dict[str, str | bool] = {"x-job": encode_spec(message.job).decode(), "x-body": message.body is not None}
    if message.traceparent is not None:
        headers["traceparent"] = message.traceparent
    return headers


def decode_envelope(headers: Mapping[str, Any], body: bytes) -> Message:
    """Raises KeyError, ValueError or TypeError where the headers are not ours."""
    traceparent = headers.get("traceparent")
    return Message(
        decode_spec(headers["x-job"]),
        body if headers["x-body"] else None,
        None if traceparent is None else str(traceparent),
    )
