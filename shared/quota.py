"""Counts how many bytes a tenant keeps in the store, and decides when the quota is used up. Pure functions.

What is counted. A job keeps its record, its request, its log and its result. Its creation counts the record, the
request and *room* for the start of its log. Before the log outgrows its room, the worker reserves about as much again,
so a long stream reserves a few times, and a token costs no extra step. The job's end replaces these numbers by the true
sizes; its deletion subtracts them. Each count is part of the step that writes the data.

So the count is never lower than what is stored, with two exceptions: the result of an answer without a stream, and the
last frames of a log. They are counted when they have been written, and `job_log_limit` bounds them.

Expiry. Redis expires keys without a notification. So a tenant's bytes are counted in *buckets* by their time of
expiry, and a bucket whose time has come no longer counts. A job's record says how many bytes of which bucket belong to
the job; one step moves them to another bucket. If such a step is lost (a process dies, or a cluster moves a slot), the
count is wrong until the bucket's time has come. In SQLite, triggers keep the sum.

If the quota is used up, new jobs are refused (429 `storage_quota_exceeded`). A running job that needs more room ends
with that error and keeps its log. Nothing is deleted before it expires.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.errors import StorageQuotaExceeded

RECORD = 2048
"""Bytes of a job's record and its index entries, without the data that its client sent."""

LOG_ROOM = 32 * 1024
"""Bytes that a streamed job reserves for its log at its creation: enough for some hundred tokens."""

USUAL_LIMIT = 2 * 1024**3
SHARE_OF_MEMORY = 4
"""The default quota is the store's maximum memory divided by this."""

SOON = 7200.0
NARROW, WIDE = 60, 3600
"""Seconds that a bucket spans: NARROW for bytes that expire within SOON, WIDE for others."""

RETRY = 60.0
"""Seconds after which a client should try again, because data may have expired by then."""


def usual_limit(memory: int | None) -> int:
    """Returns a tenant's default quota in bytes. `memory`: the store's maximum memory, if it has one."""
    return USUAL_LIMIT if memory is None else max(1, memory // SHARE_OF_MEMORY)


def bucket_at(now: float, seconds: float) -> int:
    """Returns the end of the bucket, in Unix seconds, for bytes that expire in `seconds`."""
    width = NARROW if seconds <= SOON else WIDE
    return (int((now + seconds) // width) + 1) * width


def size_of(metadata: Mapping[str, str]) -> int:
    """Returns the bytes of metadata in the record and in the metadata index."""
    return 2 * sum(len(name.encode()) + len(value.encode()) for name, value in metadata.items())


def room_for(size: int, limit: int) -> int:
    """Returns the room to reserve for a log that is about to have `size` bytes and may have `limit`."""
    return max(size, min(2 * size, limit))


def store_full(kept: int, limit: int) -> StorageQuotaExceeded:
    return StorageQuotaExceeded(
        f"Your jobs keep about {kept:,} bytes (requests, streams and results), and a tenant may keep {limit:,} "
        "(tenant_store_limit): delete jobs, or wait until some expire.",
        retry_after=RETRY,
    )


def files_full(kept: int, limit: int) -> StorageQuotaExceeded:
    return StorageQuotaExceeded(
        f"Your files have about {kept:,} bytes, and a tenant's may have {limit:,} (tenant_file_limit): delete files, "
        "or wait until some expire.",
        retry_after=RETRY,
    )
