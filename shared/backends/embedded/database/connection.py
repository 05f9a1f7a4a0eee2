"""One SQLite connection in a thread of its own, with group commit.

The steps of one event-loop iteration, and those that arrive while a transaction runs, share the next transaction. Their
futures are then resolved in one iteration of the loop. So concurrent steps share one fsync.

If the disk is full, steps that write fail. Each step of a failed transaction is then run in a transaction of its own,
so that reads go on. A failed step leaves nothing behind, so its caller may try again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar, overload

import structlog

from shared.errors import BackendUnavailable, StoreFull, StoreUnavailable

UNUSABLE = "The store cannot be used at present."

log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")
Connection = sqlite3.Connection

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


class Database:
    """Runs steps in the database thread, for callers in the event loop. `on_lost` is called if the thread ends before
    `close`.
    """

    def __init__(self, path: Path | None, *, timeout: float = 10.0, on_lost: Callable[[], None]) -> None:
        self._path = path
        self._timeout = timeout
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._inbox: SimpleQueue[list[Work] | None] = SimpleQueue()
        self._waiting: list[Work] = []
        self._running: list[Work] = []
        self._busy = False
        self._closed = True
        self._watchdog: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()

    @property
    def closed(self) -> bool:
        return self._closed

    async def open(self, prepare: Callable[[Connection], None]) -> None:
        """Starts the thread, which runs `prepare` first, outside any transaction. Raises BackendUnavailable."""
        opened: asyncio.Future[None] = self._loop.create_future()
        # A daemon thread, because a disk that hangs must not keep the process alive.
        thread = threading.Thread(target=self._serve, args=(prepare, opened), name="sqlite", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(self._timeout):
                await opened
        except TimeoutError:
            self._inbox.put(None)
            raise self._overdue_error() from None
        self._closed = False

    @overload
    def run(self, step: Callable[[Connection], T], *, durable: bool = ...) -> asyncio.Future[T]: ...
    @overload
    def run(
        self, step: Callable[[Connection], T], *, after: Callable[[T], R], durable: bool = ...
    ) -> asyncio.Future[R]: ...
    def run(
        self,
        step: Callable[[Connection], Any],
        *,
        after: Callable[[Any], Any] | None = None,
        durable: bool = False,
    ) -> asyncio.Future[Any]:
        """Commits `step` together with the other steps of this loop iteration. The step has started when this returns.
        The future has the result of `after`, or of the step without one.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        work = Work(step, after, durable, future=future)
        if self._closed:
            work.fail(StoreUnavailable("The database is closed."))
            return future
        self._waiting.append(work)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._send)
        return future

    async def close(self) -> None:
        """Commits the steps in progress, then ends the thread."""
        if not self._closed:
            last = self.run(lambda _: None)
            self._closed = True
            await asyncio.wait([last])
            last.exception()
            self._inbox.put(None)
        await asyncio.wait([self._ended], timeout=self._timeout)

    # ── loop ──

    def _send(self) -> None:
        self._running, self._waiting = self._waiting, []
        self._watchdog = self._loop.call_later(self._timeout, self._overdue)
        self._inbox.put(self._running)

    def _committed(self, batch: list[Work]) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        for work in batch:
            work.resolve()
        if self._waiting:
            self._send()
        else:
            self._busy = False

    def _overdue(self) -> None:
        """Fails all waiting steps, because the disk hangs. They may still be committed later; then their `after`
        runs.
        """
        self._fail_all(self._overdue_error())
        self._watchdog = self._loop.call_later(self._timeout, self._overdue)

    def _overdue_error(self) -> BackendUnavailable:
        return StoreUnavailable(
            "The store has not answered in time.",
            retry_after=2,
            detail=f"the database {self._path} has not answered for {self._timeout:g} seconds",
        )

    def _fail_all(self, error: Exception) -> None:
        for work in (*self._running, *self._waiting):
            work.fail(error)

    def _thread_ended(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        lost, self._closed = not self._closed, True
        if not self._ended.done():
            self._ended.set_result(None)
        self._fail_all(StoreUnavailable("The database's thread has ended."))
        if lost:
            self._on_lost()

    # ── thread ──

    def _serve(self, prepare: Callable[[Connection], None], opened: asyncio.Future[None]) -> None:
        try:
            writer = self._open_writer(prepare, opened)
            if writer is not None:
                self._serve_with(writer)
        finally:
            self._call_in_loop(self._thread_ended)

    def _open_writer(self, prepare: Callable[[Connection], None], opened: asyncio.Future[None]) -> Writer | None:
        try:
            writer = Writer(self._path)
            writer.prepare(prepare)
        except Exception as error:
            self._call_in_loop(report_opened, opened, error)
            return None
        self._call_in_loop(report_opened, opened, None)
        return writer

    def _serve_with(self, writer: Writer) -> None:
        try:
            for batch in iter(self._inbox.get, None):
                writer.transact(batch)
                self._call_in_loop(self._committed, batch)
        finally:
            writer.close()

    def _call_in_loop(self, callback: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed.
            self._loop.call_soon_threadsafe(callback, *args)


def report_opened(opened: asyncio.Future[None], error: Exception | None) -> None:
    if opened.done():
        return
    if error is not None:
        opened.set_exception(error)
    else:
        opened.set_result(None)
