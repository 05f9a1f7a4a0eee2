"""The changes of a job in the embedded database. Each function runs in one transaction.

A step decides before it writes, so a refused step leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import orjson

from shared import quota
from shared.backends.embedded import outbox
from shared.backends.embedded.database import metadata_index as pairs
from shared.backends.embedded.database.log_rows import Extended, check_room, drop_progress, extend
from shared.backends.embedded.database.rows import Row, find, running
from shared.backends.embedded.database.transactions import Connection
from shared.backends.ending import encode_ending
from shared.backends.metadata_pairs import all_digests
from shared.frames import count_frames
from shared.job import ENDINGS, Job, JobEvent, JobStatus, advance, sources
from shared.ports import AttemptFenced, Claim, Ending, NotClaimed

ABANDONED_AFTER = 24 * 3600.0
"""Seconds after its deadline and retention at which the record of a job that never ended is dropped."""


class Ended(NamedTuple):
    """A job's end, as its followers are notified of it. `said`: number of frames in its log without those of the
    ending.
    """

    extended: Extended | None
    size: int
    ending: Ending
    purge_at: float
    limit_key: str | None
    said: int


class CancelRequested(NamedTuple):
    """A running job was marked for cancellation, and its owner must be notified."""

    owner: str


def create(db: Connection, job: Job, body: bytes, *, sent: str | None = None, limit: int = 0) -> None:
    """Writes the record; does nothing if it exists. `limit`: bytes that the tenant may keep; 0: unlimited. Raises
    StorageQuotaExceeded.
    """
    purge_at = job.deadline_at + job.retention + ABANDONED_AFTER
    own, room = quota.RECORD + 2 * quota.size_of(job.metadata), quota.LOG_ROOM if job.logged else 0
    kept = own + room + len(body)
    check_room(db, job.tenant, kept, limit=limit, job_id=job.id)
    created = db.execute(
        "INSERT OR IGNORE INTO jobs (id, tenant, model, tier, mode, created_at, deadline_at, retention, detached,"
        " stored, seed, metadata, idempotency_key, webhook_url, limit_key, made_with, api, tokens, weight,"
        f" window_end, status, purge_at, sent, own, room, kept) VALUES ({', '.join('?' * 26)})",
        (
            *(
                job.id,
                job.tenant,
                job.model,
                job.tier,
                job.mode,
                job.created_at,
                job.deadline_at,
                job.retention,
            ),
            *(job.detached, job.stored, job.seed, orjson.dumps(job.metadata).decode()),
            *(job.idempotency_key and orjson.dumps(job.idempotency_key).decode(), job.webhook_url, job.limit_key),
            *(job.made_with, job.api),
            *(job.tokens, job.weight, job.window_end),
            *(job.status, purge_at, sent, own, room, kept),
        ),
    )
    if created.rowcount:
        db.execute("INSERT INTO bodies (job, body) VALUES (?, ?)", (created.lastrowid, body))
        if job.metadata and created.lastrowid is not None:
            pairs.note(
                db, created.lastrowid, job.id, all_digests(job.tenant, job.metadata, stored=job.stored_completion)
            )
        if job.webhook_url is not None:
            outbox.await_ending(db, job.id, job.created_at)


def body_size(db: Connection, key: int) -> int:
    (size,) = db.execute("SELECT coalesce(sum(length(body)), 0) FROM bodies WHERE job = ?", (key,)).fetchone()
    return size


def reattach(db: Connection, tenant: str, sent: str, *, followed: Callable[[str], bool], now: float) -> str | None:
    rows = db.execute(
        "SELECT id FROM jobs WHERE tenant = ? AND sent = ? AND finished_at IS NULL AND cancelling = 0 AND purge_at > ?"
        " ORDER BY id",
        (tenant, sent, now),
    )
    orphan = next((job_id for (job_id,) in rows.fetchall() if not followed(job_id)), None)
    db.execute("UPDATE jobs SET sent = NULL, detached = 1 WHERE id = ?", (orphan,))
    return orphan


def discard(db: Connection, job_id: str) -> None:
    rows = db.execute("SELECT key FROM jobs WHERE id = ? AND status = 'queued' AND attempt = 0", (job_id,))
    erase(db, [key for (key,) in rows.fetchall()])


def delete(db: Connection, job_id: str) -> None:
    rows = db.execute("SELECT key FROM jobs WHERE id = ?", (job_id,))
    erase(db, [key for (key,) in rows.fetchall()])


def claim(db: Connection, job_id: str, owner: str, *, lease: float, lost: str | None, now: float) -> Claim | NotClaimed:
    row = find(db, job_id, now)
    if row is None:
        return NotClaimed(None)
    if row.cancelling or row.status not in sources(JobEvent.CLAIM):
        return NotClaimed(row.status, owner=row.owner, cancelling=bool(row.cancelling))
    if row.owner not in (None, owner, lost) and (row.leased_until or 0.0) > now:
        return NotClaimed(row.status, owner=row.owner)
    tries, losses = blame(row, owner)
    db.execute(
        "UPDATE jobs SET status = ?, attempt = attempt + 1, tries = ?, lost = ?, base = ?, owner = ?, leased_until = ?,"
        " started_at = coalesce(started_at, ?) WHERE key = ?",
        (advance(row.status, JobEvent.CLAIM), tries, losses, row.size, owner, now + lease, now, row.key),
    )
    return Claim(job_id, attempt=row.attempt + 1, tries=tries, lost=losses, offset=row.size)


def blame(row: Row, owner: str) -> tuple[int, int]:
    """Returns the tries, and the attempts lost in a row, after `owner` has taken the job over: see job.py."""
    if row.owner in (None, owner):
        return row.tries, row.lost
    return (row.tries + 1, row.lost + 1) if row.size == row.base else (row.tries, 0)


def body(db: Connection, job_id: str) -> bytes | None:
    found = db.execute("SELECT body FROM bodies JOIN jobs ON key = job WHERE id = ?", (job_id,)).fetchone()
    return found[0] if found else None


def retry(db: Connection, job_id: str, deadline_at: float, *, now: float) -> bool:
    row = find(db, job_id, now)
    if row is None or row.status not in sources(JobEvent.RETRY) or body(db, job_id) is None:
        return False
    db.execute("DELETE FROM log WHERE job = ?", (row.key,))
    db.execute(
        "UPDATE jobs SET status = ?, deadline_at = ?, purge_at = ?, tries = 0, lost = 0, started_at = NULL,"
        " first_token_at = NULL, finished_at = NULL, expires_at = NULL, ending = NULL, result = NULL, code = NULL,"
        " room = ?, kept = own + ? WHERE key = ?",
        (
            *(advance(row.status, JobEvent.RETRY), deadline_at, deadline_at + row.retention + ABANDONED_AFTER),
            *(quota.LOG_ROOM, quota.LOG_ROOM + body_size(db, row.key), row.key),
        ),
    )
    if row.webhook_url is not None:
        outbox.await_ending(db, job_id, now)
    return True


def renew(db: Connection, job_id: str, attempt: int, *, lease: float, now: float) -> None:
    row = running(db, job_id, attempt, now=now)
    if row.cancelling:
        raise AttemptFenced(row.status, cancelling=True)
    db.execute("UPDATE jobs SET leased_until = ? WHERE key = ?", (now + lease, row.key))


def release(db: Connection, job_id: str, attempt: int, *, counted: bool, now: float) -> JobStatus:
    row = running(db, job_id, attempt, now=now)
    status = advance(row.status, JobEvent.RELEASE)
    db.execute(
        "UPDATE jobs SET status = ?, tries = tries + ?, owner = NULL, leased_until = NULL WHERE key = ?",
        (status, counted, row.key),
    )
    return status


def finish(db: Connection, job_id: str, attempt: int, *, offset: int, ending: Ending, now: float) -> Ended | None:
    row = find(db, job_id, now)
    if row is not None and row.attempt == attempt and row.status == ending.status:
        return None
    return end(db, running(db, job_id, attempt, now=now), offset, ending=ending, now=now)


def end_unclaimed(db: Connection, job_id: str, ending: Ending, *, owner: str | None, now: float) -> Ended | None:
    row = find(db, job_id, now)
    if row is None or row.status not in sources(ENDINGS[ending.status]) or row.owner not in (None, owner):
        return None
    return end(db, row, row.size, ending=ending, now=now)


def cancel(
    db: Connection, job_id: str, ending: Ending, *, alive: Callable[[str], bool], now: float
) -> Ended | CancelRequested | None:
    row = find(db, job_id, now)
    if row is None or row.status not in sources(JobEvent.CANCEL):
        return None
    if row.owner is None or not alive(row.owner):
        return end(db, row, row.size, ending=ending, now=now)
    db.execute("UPDATE jobs SET cancelling = 1 WHERE key = ?", (row.key,))
    return CancelRequested(row.owner)


def end(db: Connection, row: Row, offset: int, *, ending: Ending, now: float) -> Ended:
    status, header = advance(row.status, ENDINGS[ending.status]), encode_ending(ending)
    extended = extend(db, row, offset, data=ending.frames, now=now) if ending.frames else None
    size = row.size + (len(extended.data) if extended else 0)
    said = row.chunks + (count_frames(extended.data) if extended else 0) - count_frames(ending.frames)
    expires_at = now + row.retention
    drop_progress(db, row.key)
    if not (row.detached or row.stored) and status is not JobStatus.FAILED:
        db.execute("DELETE FROM bodies WHERE job = ?", (row.key,))
    kept = row.own + size + len(header) + len(ending.result or b"") + body_size(db, row.key)
    db.execute(
        "UPDATE jobs SET status = ?, owner = NULL, leased_until = NULL, cancelling = 0, finished_at = ?,"
        " expires_at = ?, purge_at = ?, ending = ?, result = ?, code = ?, kept = ? WHERE key = ?",
        (status, now, expires_at, expires_at, header, ending.result, (ending.error or {}).get("code"), kept, row.key),
    )
    if row.webhook_url is not None:
        outbox.note_ending(db, row.id)
    notified = Ending(
        status, b"", ending.result if row.mode == "unary" else None, usage=ending.usage, error=ending.error
    )
    return Ended(extended, size, notified, expires_at, row.limit_key, said)


# ── removal ──


def drop_never_accepted(db: Connection) -> None:
    """Removes jobs whose record was written but not their message when the process died: no client got their id."""
    rows = db.execute(
        "SELECT key FROM jobs WHERE status = 'queued' AND attempt = 0"
        " AND NOT EXISTS (SELECT 1 FROM messages WHERE job_id = jobs.id)"
    )
    erase(db, [key for (key,) in rows.fetchall()])


def erase(db: Connection, keys: Sequence[int]) -> None:
    for table, column in (("log", "job"), ("progress", "job"), ("bodies", "job"), ("pairs", "job"), ("jobs", "key")):
        db.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(key,) for key in keys])
