"""One SQLite connection in a thread of its own, with group commit.

The steps of one event-loop iteration, and those that arrive while a transaction runs, share the next transaction. Their
futures are then resolved in one iteration of the loop. So concurrent steps share one fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar, overload

from shared.backends.embedded.database.transactions import Connection, Work, Writer
from shared.errors import BackendUnavailable, StoreUnavailable

T = TypeVar("T")
R = TypeVar("R")


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
