"""Bounds how many followers read their logs at a time, in turns of jobs.

A thousand readers that catch up would otherwise queue a thousand reads at once, and their answers would come in one
event loop iteration. Readers at the same place of a log share a read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass

from shared.backends.follower import ReadLog, Snapshot
from shared.errors import BackendUnavailable

MOST = 8
"""Reads that run at a time."""

SHARERS = 4
"""Followers that share a read: the event loop wakes all of them in one iteration."""

Place = tuple[str, int, int]
"""Job, offset and limit of a read."""


@dataclass(slots=True)
class SharedRead:
    place: Place
    answer: asyncio.Future[Snapshot | None]
    sharers: int = 1


class FairReads:
    """Wraps a log's `read`. A read that waits is shared, one that runs is not: its answer may be older than the
    follower's place in the hub, and what was appended between the two would be missed.
    """

    def __init__(self, read: ReadLog) -> None:
        self._read = read
        self._running = 0
        self._waiting: OrderedDict[str, deque[SharedRead]] = OrderedDict()
        self._shareable: dict[Place, SharedRead] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, job_id: str, offset: int, limit: int) -> Snapshot | None:
        """Raises what the log's `read` raises."""
        if self._running < MOST:
            self._running += 1
            return await self._run((job_id, offset, limit))
        # Shielded: a follower that is cancelled leaves the read to the others.
        return await asyncio.shield(self._waiting_read((job_id, offset, limit)).answer)

    def _waiting_read(self, place: Place) -> SharedRead:
        shared = self._shareable.get(place)
        if shared is not None and shared.sharers < SHARERS:
            shared.sharers += 1
            return shared
        shared = self._shareable[place] = SharedRead(place, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(place[0], deque()).append(shared)
        return shared

    async def _run(self, place: Place) -> Snapshot | None:
        try:
            return await self._read(*place)
        except BackendUnavailable as error:
            self._fail_waiting(error)
            raise
        finally:
            self._running -= 1
            self._start_waiting()

    def _fail_waiting(self, error: BackendUnavailable) -> None:
        """Fails the reads that wait: one after another they would fail as well, each after its own timeout."""
        for reads in self._waiting.values():
            for shared in reads:
                fail(shared.answer, error)
        self._waiting.clear()
        self._shareable.clear()

    def _start_waiting(self) -> None:
        while self._running < MOST and self._waiting:
            job_id, reads = self._waiting.popitem(last=False)
            shared = reads.popleft()
            if reads:
                self._waiting[job_id] = reads  # Behind the other jobs.
            if self._shareable.get(shared.place) is shared:
                del self._shareable[shared.place]
            self._running += 1
            task = asyncio.create_task(self._answer(shared), name="log read")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, shared: SharedRead) -> None:
        """Hands the answer, or the error, to the followers that wait for it."""
        try:
            shared.answer.set_result(await self._run(shared.place))
        except asyncio.CancelledError:
            shared.answer.cancel()
            raise
        except Exception as error:
            fail(shared.answer, error)


def fail(answer: asyncio.Future[Snapshot | None], error: Exception) -> None:
    answer.set_exception(error)
    answer.exception()  # Marks it as retrieved: all of its followers may have been cancelled.
