"""A message's envelope as flat headers of strings and numbers, for any queue that carries headers beside a body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.job import QueueName, Tier
from shared.ports import Message


def encode_envelope(message: Message) -> dict[str, str | int | float | bool]:
    """Everything but the body. An absent body (the store has it) is told from an empty one by `x-body`."""
    headers: dict[str, str | int | float | bool] = {
        "x-job": message.job_id,
        "x-model": message.queue.model,
        "x-tier": str(message.queue.tier),
        "x-mode": message.mode,
        "x-logged": message.logged,
        "x-created": repr(message.created_at),
        "x-deadline": repr(message.deadline_at),
        "x-body": message.body is not None,
    }
    if message.seed is not None:
        headers["x-seed"] = message.seed
    if message.traceparent is not None:
        headers["traceparent"] = message.traceparent
    return headers


def decode_envelope(headers: Mapping[str, Any], body: bytes) -> Message:
    """Raises KeyError, ValueError or TypeError where the headers are not ours."""
    mode = str(headers["x-mode"])
    if mode not in ("unary", "stream"):
        raise ValueError(f"unknown mode {mode!r}")
    return Message(
        job_id=str(headers["x-job"]),
        queue=QueueName(str(headers["x-model"]), Tier(str(headers["x-tier"]))),
        mode="stream" if mode == "stream" else "unary",
        created_at=float(headers["x-created"]),
        deadline_at=float(headers["x-deadline"]),
        body=body if headers["x-body"] else None,
        logged=bool(headers["x-logged"]),
        seed=None if headers.get("x-seed") is None else int(headers["x-seed"]),
        traceparent=None if headers.get("traceparent") is None else str(headers["traceparent"]),
    )
