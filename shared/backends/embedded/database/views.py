"""Reads jobs from the embedded database. Each function runs in one transaction and ignores expired data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from shared.backends.embedded.database.metadata_index import rarest
from shared.backends.embedded.database.rows import find
from shared.backends.embedded.database.transactions import Connection
from shared.backends.ending import decode_ending
from shared.backends.follower import Snapshot
from shared.job import IdempotencyKey, Job, JobStatus, QueueName, Tier
from shared.ports import JobFilter


def snapshot(db: Connection, job_id: str, offset: int, *, limit: int, now: float) -> Snapshot | None:
    row = find(db, job_id, now)
    if row is None:
        return None
    ending = None
    if row.status.terminal:
        header, result = db.execute("SELECT ending, result FROM jobs WHERE key = ?", (row.key,)).fetchone()
        ending = decode_ending(header, result if row.mode == "unary" else None)
    return Snapshot(read_log(db, row.key, offset, limit=limit), row.size, row.status, ending=ending)


def read_all(db: Connection, job_id: str, offset: int, *, now: float) -> bytes:
    row = find(db, job_id, now)
    return read_log(db, row.key, offset, limit=row.size) if row else b""


def read_log(db: Connection, key: int, offset: int, *, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    rows = db.execute("SELECT until, data FROM log WHERE job = ? AND until > ? ORDER BY until", (key, offset))
    for until, data in rows:
        part = data[max(0, offset - (until - len(data))) :][: limit - size]
        parts.append(part)
        size += len(part)
        if size >= limit:
            break
    return b"".join(parts)


def read_progress(db: Connection, job_id: str) -> bytes:
    rows = db.execute("SELECT data FROM progress JOIN jobs ON key = job WHERE id = ? ORDER BY until", (job_id,))
    return b"".join(data for (data,) in rows)


COLUMNS = """
SELECT id, tenant, model, tier, mode, created_at, deadline_at, retention, detached, stored, seed, metadata,
       idempotency_key, webhook_url, limit_key, made_with, api, tokens, weight, window_end,
       status, attempt, tries, owner, started_at, first_token_at, finished_at, expires_at,
       coalesce((SELECT chunks FROM log WHERE job = key ORDER BY until DESC LIMIT 1), 0), ending, result
"""
RECORD = f"{COLUMNS} FROM jobs"


def record(row: Sequence[Any]) -> Job:
    (id, tenant, model, tier, mode, created_at, deadline_at, retention, detached, stored, seed, metadata) = row[:12]
    idempotency_key, webhook_url, limit_key, made_with, api, tokens, weight, window_end, row = *row[12:20], row[20:]
    (status, attempt, tries, owner, started_at, first_token_at, finished_at, expires_at, chunks) = row[:9]
    ending = decode_ending(row[9], row[10]) if row[9] is not None else None
    return Job(
        id=id,
        tenant=tenant,
        model=model,
        tier=Tier(tier),
        mode=mode,
        created_at=created_at,
        deadline_at=deadline_at,
        retention=retention,
        detached=bool(detached),
        stored=bool(stored),
        seed=seed,
        metadata=orjson.loads(metadata),
        idempotency_key=IdempotencyKey(**orjson.loads(idempotency_key)) if idempotency_key else None,
        webhook_url=webhook_url,
        limit_key=limit_key,
        made_with=made_with,
        api=api,
        tokens=tokens,
        weight=weight,
        window_end=window_end,
        status=JobStatus(status),
        attempt=attempt,
        tries=tries,
        owner=owner,
        started_at=started_at,
        first_token_at=first_token_at,
        finished_at=finished_at,
        expires_at=expires_at,
        chunks=chunks,
        usage=dict(ending.usage) if ending and ending.usage is not None else None,
        error=dict(ending.error) if ending and ending.error is not None else None,
        result=ending.result if ending else None,
    )


def get(db: Connection, job_id: str, now: float) -> Job | None:
    row = db.execute(f"{RECORD} WHERE id = ? AND purge_at > ?", (job_id, now)).fetchone()
    return record(row) if row else None


def list_jobs(
    db: Connection,
    tenant: str | None,
    where: JobFilter,
    *,
    after: str | None,
    limit: int,
    oldest_first: bool,
    now: float,
) -> list[Job]:
    pair = None if tenant is None else rarest(db, tenant, where)
    beyond, order = (">", "ASC") if oldest_first else ("<", "DESC")
    id = "id" if pair is None else "job_id"
    conditions = ["purge_at > ?"]
    values: list[Any] = [now]
    for condition, value in (
        ("pair = ?", pair),
        ("tenant = ?", tenant),
        ("status = ?", where.status),
        ("model = ?", where.model),
        ("code = ?", where.code),
        (f"{id} {beyond} ?", after),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    for key, value in where.metadata.items():
        conditions.append("EXISTS (SELECT 1 FROM json_each(metadata) AS each WHERE each.key = ? AND each.value = ?)")
        values += (key, value)
    if where.stored:
        conditions.append("stored = 1 AND api = 'chat'")
    source, rules = source_of(tenant, where, pair), " AND ".join(conditions)
    query = f"{COLUMNS} FROM {source} WHERE {rules} ORDER BY {id} {order} LIMIT ?"
    return [record(row) for row in db.execute(query, (*values, limit))]


def source_of(tenant: str | None, where: JobFilter, pair: int | None) -> str:
    """Returns the FROM clause with the index that has the fewest rows besides the wanted ones. It is forced, because
    SQLite has no statistics here and would choose an arbitrary index.
    """
    if pair is not None:
        return "pairs CROSS JOIN jobs ON id = job_id"
    if where.code is not None:
        return f"jobs INDEXED BY {'jobs_of_all_by_code' if tenant is None else 'jobs_by_code'}"
    return "jobs"


def orphans(db: Connection, queue: QueueName, before: float, *, now: float) -> list[Job]:
    """Returns jobs of the queue that are not over, are older than `before`, and have no message. A dead letter counts
    as a message.
    """
    rows = db.execute(
        f"{RECORD} WHERE model = ? AND tier = ? AND finished_at IS NULL AND created_at <= ? AND purge_at > ?"
        " AND NOT EXISTS (SELECT 1 FROM messages WHERE job_id = jobs.id)",
        (queue.model, queue.tier, before, now),
    )
    return [record(row) for row in rows]


def knew(db: Connection, tenant: str, job_id: str) -> bool:
    known = db.execute(
        "SELECT 1 FROM jobs WHERE id = ?1 AND tenant = ?2"
        " UNION ALL SELECT 1 FROM tombstones WHERE id = ?1 AND tenant = ?2",
        (job_id, tenant),
    )
    return known.fetchone() is not None


def position(db: Connection, job: Job) -> int | None:
    (waits,) = db.execute(
        "SELECT count(*) FROM jobs WHERE id = ? AND status = ?", (job.id, JobStatus.QUEUED)
    ).fetchone()
    if not waits:
        return None
    (ahead,) = db.execute(
        "SELECT count(*) FROM jobs WHERE model = ? AND tier = ? AND status = 'queued' AND id < ?",
        (job.model, job.tier, job.id),
    ).fetchone()
    return ahead
