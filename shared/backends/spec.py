"""The JSON form of a job as it was submitted, for the store and for messages."""

from __future__ import annotations

from typing import get_args

import orjson

from shared.job import Api, IdempotencyKey, Job, Tier

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

OPTIONAL = ("idempotency_key", "webhook_url", "limit_key", "made_with", "window_end", "request_id")
"""Fields that are omitted if they are None. `api` is omitted too if it is `chat`."""

MOMENTS = frozenset({"created_at", "deadline_at", "retention", "window_end"})

REQUEST_ID_LIMIT = 200
"""Characters of a request id."""

LATEST = 1e11
"""Unix seconds. Later times, and NaN, are refused: they are errors, and do not fit into a timestamp."""


def encode_spec(job: Job) -> bytes:
    spec = {name: getattr(job, name) for name in FIELDS}
    spec |= {name: value for name in OPTIONAL if (value := getattr(job, name)) is not None}
    if job.api != "chat":
        spec["api"] = job.api
    return orjson.dumps(spec)


def decode_spec(data: bytes | str) -> Job:
    """Returns a queued job. Raises KeyError, ValueError or TypeError if `encode_spec` did not make `data`."""
    spec = orjson.loads(data)
    if spec["mode"] not in ("unary", "stream"):
        raise ValueError(f"unknown mode {spec['mode']!r}")
    if spec.get("api", "chat") not in get_args(Api):
        raise ValueError(f"unknown API {spec['api']!r}")
    if len(spec.get("request_id", "")) > REQUEST_ID_LIMIT:
        raise ValueError(f"the request id has more than {REQUEST_ID_LIMIT} characters")
    spec["tier"] = Tier(spec["tier"])
    if "idempotency_key" in spec:
        spec["idempotency_key"] = IdempotencyKey(**spec["idempotency_key"])
    for name in MOMENTS.intersection(spec):
        spec[name] = float(spec[name])
        if not 0 <= spec[name] < LATEST:
            raise ValueError(f"{name} is {spec[name]}")
    return Job(**spec)
