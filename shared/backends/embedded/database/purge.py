"""Removes the data of expired jobs, in bounded steps, with a timer for the next expiry."""

from __future__ import annotations

import asyncio
import time

import structlog

from shared.backends.embedded.database.connection import Database
from shared.backends.embedded.database.jobs import erase
from shared.backends.embedded.database.transactions import Connection

BATCH = 100
"""Most jobs removed in one transaction, so that other steps do not wait long."""

PAUSE = 1.0
"""Least seconds between two steps, so that jobs that expire one after the other are removed together."""

RETRY_AFTER = 60.0

log = structlog.get_logger(__name__)


class Purge:
    def __init__(self, database: Database, tombstone_retention: float) -> None:
        self._database = database
        self._tombstone_retention = tombstone_retention
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    def start(self) -> None:
        self._sweep()

    def expect(self, due: float) -> None:
        """Schedules the removal of data that expires at `due`. Readers ignore expired data, so it may be a little
        late.
        """
        if due < self._due:
            self._set(due, max(PAUSE, due - time.time()))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, due: float, delay: float) -> None:
        self.close()
        self._due = due
        self._timer = self._loop.call_later(delay, self._sweep)

    def _sweep(self) -> None:
        self._due = float("-inf")  # The step itself finds the next due time.
        swept = self._database.run(
            lambda db: purge(db, time.time(), self._tombstone_retention, limit=BATCH), after=self._swept
        )
        swept.add_done_callback(self._retry_failed)

    def _swept(self, outcome: tuple[int, float | None]) -> None:
        removed, next_due = outcome
        self._due = float("inf")
        if removed >= BATCH:
            self._sweep()
        elif next_due is not None:
            self.expect(next_due)

    def _retry_failed(self, swept: asyncio.Future[None]) -> None:
        if (error := swept.exception()) is not None and not self._database.closed:
            log.warning("database.not_purged", error=str(error), next=f"trying again in {RETRY_AFTER:.0f} s")
            self._set(time.time() + RETRY_AFTER, RETRY_AFTER)


def purge(db: Connection, now: float, tombstone_retention: float, *, limit: int) -> tuple[int, float | None]:
    """Removes up to `limit` expired jobs, and as many old tombstones. Returns how many, and when the next expires."""
    due = db.execute(
        "SELECT key, id, tenant FROM jobs WHERE purge_at <= ? ORDER BY purge_at LIMIT ?", (now, limit)
    ).fetchall()
    forget_at = now + tombstone_retention
    db.executemany(
        "INSERT OR REPLACE INTO tombstones (id, tenant, forget_at) VALUES (?, ?, ?)",
        [(id, tenant, forget_at) for _, id, tenant in due],
    )
    erase(db, [key for key, _, _ in due])
    forgotten = db.execute(
        "DELETE FROM tombstones WHERE id IN (SELECT id FROM tombstones WHERE forget_at <= ? LIMIT ?)",
        (now, limit),
    ).rowcount
    (next_due,) = db.execute(
        "SELECT min(due) FROM (SELECT min(purge_at) AS due FROM jobs UNION ALL SELECT min(forget_at) FROM tombstones)"
    ).fetchone()
    return len(due) + forgotten, next_due
