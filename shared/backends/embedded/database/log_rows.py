"""The logs of jobs in the embedded database, and the room that they take of their tenants' quotas."""

from __future__ import annotations

from typing import NamedTuple

from shared import quota
from shared.backends.embedded.database.rows import Row, running
from shared.backends.embedded.database.transactions import Connection
from shared.frames import count_frames
from shared.ports import AttemptFenced, LogShorter, Progress

ROW_LIMIT = 32 * 1024
"""Most bytes of a log in one row. SQLite reads a row as a whole, even if only a part of it is needed."""


class Extended(NamedTuple):
    """Bytes that were new to the log, and where they start."""

    offset: int
    data: bytes


def append(
    db: Connection, job_id: str, attempt: int, *, offset: int, frames: bytes, progress: Progress | None, now: float
) -> Extended | None:
    row = running(db, job_id, attempt, now=now)
    if row.cancelling:
        raise AttemptFenced(row.status, cancelling=True)
    extended = extend(db, row, offset, data=frames, now=now)
    if progress is not None:
        extend_progress(db, row.key, progress)
    return extended


def extend_progress(db: Connection, key: int, progress: Progress) -> None:
    """Adds what the progress does not have yet. At offset 0 it is replaced; with a gap it is of no use and dropped."""
    (size,) = db.execute("SELECT coalesce(max(until), 0) FROM progress WHERE job = ?", (key,)).fetchone()
    if progress.offset == 0 or progress.offset > size:
        drop_progress(db, key)
        size = 0
    if progress.offset <= size and (data := progress.data[size - progress.offset :]):
        db.execute("INSERT INTO progress (job, until, data) VALUES (?, ?, ?)", (key, size + len(data), data))


def drop_progress(db: Connection, key: int) -> None:
    db.execute("DELETE FROM progress WHERE job = ?", (key,))


def extend(db: Connection, row: Row, offset: int, *, data: bytes, now: float) -> Extended | None:
    """Appends the bytes that the log does not have yet; a repeated append adds nothing. Raises LogShorter."""
    if offset > row.size:
        raise LogShorter(row.size)
    fresh = data[row.size - offset :]
    if not fresh:
        return None
    whole = row.chunks + count_frames(fresh)
    for start in range(0, len(fresh), ROW_LIMIT):
        data = fresh[start : start + ROW_LIMIT]
        until = row.size + start + len(data)
        # Only the count in the last row of a log is ever read.
        db.execute("INSERT INTO log (job, until, chunks, data) VALUES (?, ?, ?, ?)", (row.key, until, whole, data))
    if row.size == 0:
        db.execute("UPDATE jobs SET first_token_at = ? WHERE key = ?", (now, row.key))
    return Extended(row.size, fresh)


def check_room(db: Connection, tenant: str, more: int, *, limit: int, job_id: str = "") -> None:
    """Raises StorageQuotaExceeded if the tenant may not keep `more` bytes, unless the job exists already."""
    if not limit:
        return
    (kept,) = db.execute("SELECT bytes FROM kept WHERE tenant = ?", (tenant,)).fetchone() or (0,)
    if kept + more > limit and db.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone() is None:
        raise quota.store_full(kept, limit)


def reserve(db: Connection, job_id: str, attempt: int, *, room: int, limit: int, now: float) -> None:
    """Reserves room for the log. Raises AttemptFenced, StorageQuotaExceeded."""
    row = running(db, job_id, attempt, now=now)
    more = room - row.room
    if more <= 0:
        return
    (tenant,) = db.execute("SELECT tenant FROM jobs WHERE key = ?", (row.key,)).fetchone()
    check_room(db, tenant, more, limit=limit)
    db.execute("UPDATE jobs SET room = ?, kept = kept + ? WHERE key = ?", (room, more, row.key))
