"""The index of jobs by metadata pairs in the embedded database: one row for each pair of each job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from shared.backends.embedded.database.transactions import Connection
from shared.backends.metadata_pairs import all_digests, digests
from shared.ports import JobFilter

MANY = 1000
"""Most rows that are counted to find the rarest pair."""


def note(db: Connection, key: int, job_id: str, pairs: Sequence[bytes]) -> None:
    """Adds a job to the index. `key`: of its row in the table of jobs."""
    db.executemany(
        "INSERT OR IGNORE INTO pairs (pair, job_id, job) VALUES (?, ?, ?)",
        [(number(pair), job_id, key) for pair in pairs],
    )


def describe(db: Connection, job_id: str, metadata: Mapping[str, str], now: float) -> bool:
    row = db.execute(
        "SELECT key, tenant, stored AND api = 'chat' FROM jobs WHERE id = ? AND purge_at > ?", (job_id, now)
    ).fetchone()
    if row is None:
        return False
    key, tenant, stored = row
    db.execute("UPDATE jobs SET metadata = ? WHERE key = ?", (orjson.dumps(metadata).decode(), key))
    db.execute("DELETE FROM pairs WHERE job = ?", (key,))
    note(db, key, job_id, all_digests(tenant, metadata, stored=bool(stored)))
    return True


def rarest(db: Connection, tenant: str, where: JobFilter) -> int | None:
    """Returns the filter's pair that the fewest jobs have, or None if the filter has no pairs."""
    pairs = [number(digest) for digest in digests(tenant, where.metadata, stored=where.stored)]
    return pairs[0] if len(pairs) == 1 else min(pairs, key=lambda pair: count(db, pair), default=None)


def count(db: Connection, pair: int) -> int:
    (rows,) = db.execute("SELECT count(*) FROM (SELECT 1 FROM pairs WHERE pair = ? LIMIT ?)", (pair, MANY)).fetchone()
    return rows


def number(digest: bytes) -> int:
    return int.from_bytes(digest, signed=True)
