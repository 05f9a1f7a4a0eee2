"""A job as it was submitted, as the store and the message both keep it: one JSON object."""

from __future__ import annotations

import orjson

from shared.job import Job, Tier

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
)


LATEST = 1e11
"""Seconds. A time beyond it (or one that is no number) comes from nobody who means it, and fits into no timestamp."""


def encode_spec(job: Job) -> bytes:
    return orjson.dumps({name: getattr(job, name) for name in FIELDS})


def decode_spec(data: bytes | str) -> Job:
    """A queued job. Raises KeyError, ValueError or TypeError where `data` is not what `encode_spec` makes."""
    spec = orjson.loads(data)
    if spec["mode"] not in ("unary", "stream"):
        raise ValueError(f"unknown mode {spec['mode']!r}")
    spec["tier"] = Tier(spec["tier"])
    for name in ("created_at", "deadline_at", "retention"):
        spec[name] = float(spec[name])
        if not 0 <= spec[name] < LATEST:
            raise ValueError(f"{name} is {spec[name]}")
    return Job(**spec)
