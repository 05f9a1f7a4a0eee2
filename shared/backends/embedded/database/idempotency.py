"""Idempotency keys in the embedded database: key and job are written in one transaction."""

from __future__ import annotations

from shared.backends.embedded.database import jobs
from shared.backends.embedded.database.transactions import Connection
from shared.backends.embedded.database.views import knew
from shared.errors import key_reused
from shared.job import IdempotencyKey, Job


def create(db: Connection, job: Job, body: bytes, *, sent: str | None, now: float, limit: int) -> str:
    """Creates the job and returns its id, or returns the id of the job that its idempotency key belongs to. `limit`:
    bytes that the tenant may keep. Raises StorageQuotaExceeded.
    """
    key = job.idempotency_key
    if key is not None and (holder := holder_of(db, job, key, now=now)) is not None:
        return holder
    jobs.create(db, job, body, sent=sent, limit=limit)
    if key is not None:
        db.execute("DELETE FROM idempotency_keys WHERE forget_at <= ?", (now,))
        db.execute(
            "INSERT OR REPLACE INTO idempotency_keys (tenant, name, fingerprint, job_id, forget_at)"
            " VALUES (?, ?, ?, ?, ?)",
            (job.tenant, key.name, key.fingerprint, job.id, now + key.kept),
        )
    return job.id


def holder_of(db: Connection, job: Job, key: IdempotencyKey, *, now: float) -> str | None:
    """Returns the job that the key belongs to, unless it was discarded or deleted. Raises IdempotencyKeyReused."""
    held = db.execute(
        "SELECT job_id, fingerprint FROM idempotency_keys WHERE tenant = ? AND name = ? AND forget_at > ?",
        (job.tenant, key.name, now),
    ).fetchone()
    if held is None or not knew(db, job.tenant, held[0]):
        return None
    if held[1] != key.fingerprint:
        raise key_reused()
    return held[0]
