"""How many bytes a tenant keeps in the store, and when that is too much. Pure.

What is counted. A job keeps its record, its request, its log and its result. At its creation it is counted with what
is written then, and with *room* for the beginning of its log. Before a log outgrows its room more is taken: about as
much again, so that a long stream takes more a few times and a token never costs anything. At the job's end the true
sizes take the place of all that, and at its removal nothing is left. Each of these is part of the very step that
writes.

So the count is never less than what is stored, but for two things that have bounds of their own: the result of an
answer that is made at once, and the last frames of a log (`job_log_limit`), which are counted a moment after they
were written.

What expires. Redis removes keys without a word. So a tenant's bytes are counted in *buckets*, by the moment at which
they expire: a bucket whose time has come counts no more, whether or not anybody has said so. A job remembers how many
bytes of which bucket are its own; to move them is one step. Where such a step is lost (a process dies, a cluster
moves a slot) the bucket is wrong until its time comes, and then the count is true again. SQLite removes rows where
all can see it: there triggers keep the sum.

When there is no room. A new job is refused (429 `storage_quota_exceeded`); one that runs and needs more room ends
with that error, and keeps what it has said. What is there already is never removed before its time.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.errors import StorageQuotaExceeded

RECORD = 2048
"""Bytes that a job's record and its places in lists take beside what its client has said."""

LOG_ROOM = 32 * 1024
"""Bytes of its log that a streamed job may write before it takes more room: some hundred tokens."""

USUAL_LIMIT = 2 * 1024**3
SHARE_OF_MEMORY = 4
"""Of a store with a bound, one tenant may have one part in so many."""

SOON = 7200.0
NARROW, WIDE = 60, 3600
"""Seconds that a bucket spans: of bytes that expire soon, and of others."""

RETRY = 60.0
"""Seconds after which a client should try again: something may have expired."""


def usual_limit(memory: int | None) -> int:
    """Bytes of a tenant where no setting says so. `memory`: the store's, where it has a bound."""
    return USUAL_LIMIT if memory is None else max(1, memory // SHARE_OF_MEMORY)


def bucket_at(now: float, seconds: float) -> int:
    """The end, in Unix seconds, of the bucket of what expires in so many seconds."""
    width = NARROW if seconds <= SOON else WIDE
    return (int((now + seconds) // width) + 1) * width


def size_of(metadata: Mapping[str, str]) -> int:
    """In the record and in the lists that know a job by what is in it."""
    return 2 * sum(len(name.encode()) + len(value.encode()) for name, value in metadata.items())


def room_for(size: int, limit: int) -> int:
    """How much room a log takes that is about to have `size` bytes and may have `limit`."""
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
