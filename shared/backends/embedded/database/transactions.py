"""Runs batches of steps as transactions, in the database's thread.

A disk that is full fails those steps that write: each step of a failed transaction has one of its own then, so that
reads go on. Nothing is kept of a step that failed; its caller tries again, and the database recovers with the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

from shared.errors import BackendUnavailable, StoreFull, StoreUnavailable

log = structlog.get_logger(__name__)

Connection = sqlite3.Connection

UNUSABLE = "The store cannot be used at present."


STEP_FAULTS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)
"""Errors of a single step. All other errors of SQLite concern the file, and so every step."""

DISK_FAULTS = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_LOCKED")
"""Prefixes of the names of errors with which the disk, or another process's lock, refuses writes. Reads may still
work.
"""

PATIENT, IMPATIENT = 5000, 20
"""Milliseconds to wait for another process's lock: normally, and while writes are refused."""

FULL = "The disk of the database is full: new data is refused until there is room."
WRITES_RETRY = 10.0
"""Seconds after which a client should repeat a write that the disk refused."""


class Work:
    """A step on its way to the thread and back. `after` runs in the loop when the step is committed, even if the future
    was cancelled.
    """

    __slots__ = ("after", "durable", "error", "future", "result", "step")

    def __init__(
        self,
        step: Callable[[Connection], Any],
        after: Callable[[Any], Any] | None,
        durable: bool,
        future: asyncio.Future[Any],
    ) -> None:
        self.step = step
        self.after = after
        self.durable = durable
        self.future = future
        self.result: Any = None
        self.error: Exception | None = None

    def resolve(self) -> None:
        if self.error is not None:
            self.fail(self.error)
            return
        try:
            answer = self.result if self.after is None else self.after(self.result)
        except Exception as error:
            self.fail(error)
            return
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class SpoiltTransaction(Exception):
    """A step raised after it had written, which is a bug in the step. The other steps run again without it."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work


class Writer:
    """Runs batches of steps as transactions, in the thread."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._synchronous = ""
        self._patience = 0
        self._refuses_since: float | None = None
        try:
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=5.0)
            self._db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def prepare(self, step: Callable[[Connection], None]) -> None:
        try:
            step(self._db)
        except BaseException as error:
            self._db.close()
            if isinstance(error, sqlite3.Error):
                raise self._unusable(error) from error
            raise

    def transact(self, batch: Sequence[Work]) -> None:
        try:
            self._transact(batch)
        except SpoiltTransaction as spoilt:
            self._roll_back()
            self.transact([work for work in batch if work is not spoilt.work])
        except sqlite3.Error as error:
            self._roll_back()
            alone = is_disk_fault(error) and (len(batch) > 1 or self._refuses_since is None)
            self._refused(error)
            if alone:
                for work in batch:
                    self.transact([work])
                return
            for work in batch:
                work.error = unusable(error)

    def _refused(self, error: sqlite3.Error) -> None:
        if self._refuses_since is None:
            self._refuses_since = time.monotonic()
            log.error(
                "database.refuses", path=str(self._path), error=str(error), next="writes are refused and tried again"
            )

    def _wrote(self) -> None:
        if self._refuses_since is not None:
            seconds = time.monotonic() - self._refuses_since
            self._refuses_since = None
            log.warning("database.writes_again", path=str(self._path), after_s=round(seconds, 1))

    def close(self) -> None:
        self._db.close()

    def _transact(self, batch: Sequence[Work]) -> None:
        self._synchronize(any(work.durable for work in batch))
        before, refuses = self._db.total_changes, self._refuses_since is not None
        self._wait_for_lock(IMPATIENT if refuses else PATIENT)
        # While writes are refused a step alone may be a read, which needs no lock.
        self._db.execute("BEGIN" if refuses and len(batch) == 1 else "BEGIN IMMEDIATE")
        for work in batch:
            self._attempt(work)
        self._db.execute("COMMIT")
        if self._db.total_changes != before:
            self._wrote()

    def _attempt(self, work: Work) -> None:
        """Runs a step. Steps decide before they write, so one that refuses needs no savepoint."""
        before = self._db.total_changes
        try:
            work.result = work.step(self._db)
            work.error = None
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, STEP_FAULTS):
                raise
            work.error = error
            if self._db.total_changes != before:
                raise SpoiltTransaction(work) from error

    def _synchronize(self, durable: bool) -> None:
        """Sets SQLite's `synchronous`. FULL: a power cut loses nothing that was committed.

        NORMAL: kill -9 loses nothing. A power cut may lose the last commits, but none that a later FULL commit has
        synced. A running job that loses its last frames in this way is run again; no client is connected to it any
        more.
        """
        wanted = "FULL" if durable else "NORMAL"
        if wanted != self._synchronous:
            self._db.execute(f"PRAGMA synchronous={wanted}")
            self._synchronous = wanted

    def _wait_for_lock(self, milliseconds: int) -> None:
        if milliseconds != self._patience:
            self._db.execute(f"PRAGMA busy_timeout={milliseconds}")
            self._patience = milliseconds

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.rollback()

    def _unusable(self, error: sqlite3.Error) -> BackendUnavailable:
        """Returns the error at the start, for the operator: with the path."""
        return StoreUnavailable(UNUSABLE, detail=f"the database {self._path or 'in memory'}: {error}")


def is_disk_fault(error: sqlite3.Error) -> bool:
    return error_name(error).startswith(DISK_FAULTS)


def error_name(error: sqlite3.Error) -> str:
    """Returns SQLite's name of the error; empty for errors of the driver itself."""
    return getattr(error, "sqlite_errorname", "")


def unusable(error: sqlite3.Error) -> BackendUnavailable:
    """Returns the error for clients: without the path."""
    if error_name(error) == "SQLITE_FULL":
        return StoreFull(FULL, retry_after=WRITES_RETRY, detail=str(error))
    return StoreUnavailable(UNUSABLE, retry_after=WRITES_RETRY if is_disk_fault(error) else None, detail=str(error))
