"""The outbox in the embedded database: one row for each job whose webhook is still to be sent."""

from __future__ import annotations

import time
from collections.abc import Sequence

from shared.backends.embedded.database.connection import Database
from shared.backends.embedded.database.transactions import Connection
from shared.ports import Notice

LOOK_AFTER = 60.0
"""Seconds after which a job is due even if it has not ended, because it may not have been accepted."""


class EmbeddedOutbox:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, limit: int, hold: float) -> Sequence[Notice]:
        return await self._database.run(lambda db: take(db, limit, hold, time.time()))

    async def put_back(self, notice: Notice, after: float) -> None:
        await self._database.run(lambda db: put_back(db, notice, time.time() + after))

    async def forget(self, notice: Notice) -> None:
        await self._database.run(lambda db: forget(db, notice))


def await_ending(db: Connection, job_id: str, now: float) -> None:
    db.execute("INSERT OR REPLACE INTO outbox (job_id, due_at) VALUES (?, ?)", (job_id, now + LOOK_AFTER))


def note_ending(db: Connection, job_id: str) -> None:
    db.execute("UPDATE outbox SET due_at = 0 WHERE job_id = ?", (job_id,))


def take(db: Connection, limit: int, hold: float, now: float) -> list[Notice]:
    due = db.execute("SELECT job_id FROM outbox WHERE due_at <= ? ORDER BY due_at LIMIT ?", (now, limit)).fetchall()
    db.executemany("UPDATE outbox SET due_at = ? WHERE job_id = ?", [(now + hold, job_id) for (job_id,) in due])
    return [Notice(job_id, now + hold) for (job_id,) in due]


def put_back(db: Connection, notice: Notice, due_at: float) -> None:
    db.execute(
        "UPDATE outbox SET due_at = ? WHERE job_id = ? AND due_at = ?", (due_at, notice.job_id, notice.held_until)
    )


def forget(db: Connection, notice: Notice) -> None:
    db.execute("DELETE FROM outbox WHERE job_id = ? AND due_at = ?", (notice.job_id, notice.held_until))
