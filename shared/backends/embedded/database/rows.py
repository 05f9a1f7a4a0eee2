"""A job as the steps of the database see it."""

from __future__ import annotations

from typing import NamedTuple

from shared.backends.embedded.database.transactions import Connection
from shared.job import JobStatus
from shared.ports import AttemptFenced


class Row(NamedTuple):
    """The columns of a job that the steps need for their decisions."""

    key: int
    status: JobStatus
    attempt: int
    tries: int
    lost: int
    base: int
    owner: str | None
    leased_until: float | None
    cancelling: int
    detached: int
    stored: int
    mode: str
    retention: float
    deadline_at: float
    webhook_url: str | None
    limit_key: str | None
    own: int
    room: int
    id: str
    size: int
    chunks: int


ROW = """
SELECT key, status, attempt, tries, lost, base, owner, leased_until, cancelling, detached, stored, mode, retention,
       deadline_at, webhook_url, limit_key, own, room, id, coalesce(log.until, 0), coalesce(log.chunks, 0)
FROM jobs LEFT JOIN log ON log.job = key AND log.until = (SELECT max(until) FROM log WHERE job = key)
WHERE id = ? AND purge_at > ?
"""


def find(db: Connection, job_id: str, now: float) -> Row | None:
    row = db.execute(ROW, (job_id, now)).fetchone()
    return Row(row[0], JobStatus(row[1]), *row[2:]) if row else None


def running(db: Connection, job_id: str, attempt: int, *, now: float) -> Row:
    """Returns the job, if `attempt` runs it. Raises AttemptFenced."""
    row = find(db, job_id, now)
    if row is None or row.attempt != attempt or row.status is not JobStatus.IN_PROGRESS:
        raise AttemptFenced(row.status if row else None)
    return row
