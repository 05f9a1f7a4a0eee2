"""A job's record in Redis: the job as it was submitted, and fields for what has happened since."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from shared.backends.ending import decode_ending
from shared.backends.spec import decode_spec
from shared.job import Job, JobStatus, new_job_id

MEMORY_OF_IDS = 7 * 86400.0
"""Seconds for which a tenant's job ids are kept after their data has expired. They are answered 410, not 404."""


def milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def time_to_live(job: Job, deadline_at: float) -> int:
    """Returns the milliseconds for which a job's keys are kept if the job never ends."""
    return milliseconds(max(0.0, deadline_at - time.time()) + job.retention)


def oldest_kept(job: Job) -> str:
    """Returns the lowest id that indexes keep when the job is added."""
    return new_job_id(time.time() - MEMORY_OF_IDS - job.retention)


def fields_of(raw: Mapping[bytes, bytes] | Sequence[bytes]) -> Mapping[bytes, bytes]:
    """Returns HGETALL's answer as a mapping; a pipeline of raw commands returns a flat list."""
    return raw if isinstance(raw, Mapping) else dict(zip(raw[::2], raw[1::2], strict=True))


def decode_job(raw: Mapping[bytes, bytes] | Sequence[bytes]) -> Job | None:
    """Decodes a record from HGETALL's answer."""
    fields = fields_of(raw)
    if b"spec" not in fields:
        return None
    job = decode_spec(fields[b"spec"])
    job.deadline_at = float(fields[b"deadline"])
    job.status = JobStatus(fields[b"status"].decode())
    job.attempt = int(fields[b"attempt"]) - int(fields.get(b"epoch", 0))
    job.tries = int(fields[b"tries"])
    job.chunks = int(fields.get(b"chunks", 0))
    job.owner = fields[b"owner"].decode() if b"owner" in fields else None
    job.started_at, job.first_token_at = moment(fields, b"started"), moment(fields, b"first")
    job.finished_at, job.expires_at = moment(fields, b"finished"), moment(fields, b"expires")
    job.detached |= b"detached" in fields
    if b"metadata" in fields:
        job.metadata = orjson.loads(fields[b"metadata"])
    if b"ending" in fields:
        ending = decode_ending(fields[b"ending"], fields.get(b"result"))
        job.usage, job.error, job.result = as_dict(ending.usage), as_dict(ending.error), ending.result
    return job


def as_dict(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if value is None else dict(value)


def moment(fields: Mapping[bytes, bytes], name: bytes) -> float | None:
    return float(fields[name]) if name in fields else None
