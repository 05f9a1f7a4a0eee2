"""Encodes a message's envelope as flat headers, for queues whose messages have headers and a body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.backends.spec import decode_spec, encode_spec
from shared.ports import Message


def encode_envelope(message: Message) -> dict[str, str | bool]:
    """Returns everything but the body. `x-body` distinguishes an absent body, which the store has, from an empty
    one.
    """
    headers: dict[str, str | bool] = {"x-job": encode_spec(message.job).decode(), "x-body": message.body is not None}
    if message.traceparent is not None:
        headers["traceparent"] = message.traceparent
    return headers


def decode_envelope(headers: Mapping[str, Any], body: bytes) -> Message:
    """Decodes a message. Raises KeyError, ValueError or TypeError if Ignite did not write the headers."""
    traceparent = headers.get("traceparent")
    return Message(
        decode_spec(headers["x-job"]),
        body if headers["x-body"] else None,
        None if traceparent is None else str(traceparent),
    )
