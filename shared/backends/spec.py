"""A job as it was submitted, as the store and the message both keep it: one JSON object."""

from __future__ import annotations

import orjson

from shared.job import IdempotencyKey, Job, Tier

FIELDS = (
    "id",
    "tenant",
    "model",
    "tier",
    "mode",
    "created_at",
    "deadline_at",
    "retention",
    "detached",
    "stored",
    "seed",
    "metadata",
    "tokens",
    "weight",
)

OPTIONAL = ("idempotency_key", "webhook_url", "limit_key", "made_with")
"""Left out where a job has none."""

LATEST = 1e11
"""Seconds. A time beyond it (or one that is no number) comes from nobody who means it, and fits into no timestamp."""


def encode_spec(job: Job) -> bytes:
    spec = {name: getattr(job, name) for name in FIELDS}
    spec |= {name: value for name in OPTIONAL if (value := getattr(job, name)) is not None}
    return orjson.dumps(spec)


def decode_spec(data: bytes | str) -> Job:
    """A queued job. Raises KeyError, ValueError or TypeError where `data` is not what `encode_spec` makes."""
    spec = orjson.loads(data)
    if spec["mode"] not in ("unary", "stream"):
        raise ValueError(f"unknown mode {spec['mode']!r}")
    spec["tier"] = Tier(spec["tier"])
    if "idempotency_key" in spec:
        spec["idempotency_key"] = IdempotencyKey(**spec["idempotency_key"])
    for name in ("created_at", "deadline_at", "retention"):
        spec[name] = float(spec[name])
        if not 0 <= spec[name] < LATEST:
            raise ValueError(f"{name} is {spec[name]}")
    return Job(**spec)
