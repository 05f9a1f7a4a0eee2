"""Follows job logs: uses live bytes while they arrive in order, and reads the log otherwise.

Both backends share this module. The live path may lose, repeat or truncate messages. A follower knows the offset that
it needs next, so it notices a gap and reads the missing bytes from the log, which is authoritative.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shared.errors import Gone, LogLost
from shared.job import JobStatus
from shared.ports import Ending, FollowerClosed, Sink, Update

BUFFER_LIMIT = 16 * 1024
"""Bytes buffered for one slow reader. Beyond this the buffer is dropped, and the reader reads the log later."""

READ_LEAST, READ_MOST = 16 * 1024, 128 * 1024
"""Bytes of one read of the log: least and most. They stay in memory until the reader has taken them."""

READ_SHARE = 8
"""The size of a read is the number of bytes that the reader has taken, divided by this. So a replay needs few reads,
and a reader that takes nothing costs little memory.
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One read of a log. `data`: bytes from the requested offset; `size`: of the whole log; `ending`: if the job is
    over; `epoch`: number of the job's record, which changes when the store has lost the job and its log starts again.
    """

    data: bytes
    size: int
    status: JobStatus
    ending: Ending | None = None
    epoch: int = 0


ReadLog = Callable[[str, int, int], Awaitable[Snapshot | None]]
"""(job id, offset, limit) → the snapshot, or None if the job's data does not exist."""


def resolve(waiter: asyncio.Future[bool], value: bool) -> None:
    if not waiter.done():
        waiter.set_result(value)


class LogFollower:
    """One reader of one job's log. The hub calls `deliver`, `end` and `move`; the reader calls `next`."""

    def __init__(self, job_id: str, offset: int, read: ReadLog, *, stale: bool) -> None:
        self.job_id = job_id
        self._read = read
        self._since = self._position = offset
        self._parts: list[bytes] = []
        self._buffered = 0
        self._stale = stale
        self._delivered_any = False
        self._epoch: int = 0
        self._filling: list[tuple[int, bytes]] | None = None
        self._status: JobStatus | None = None if stale else JobStatus.QUEUED
        self._reported: JobStatus | None = self._status
        self._ending: Ending | None = None
        self._closed = False
        self._waiter: asyncio.Future[bool] | None = None
        self._patience: float | None = None
        self._until: float | None = None
        self._sink: Sink | None = None
        self._sink_full = False
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def ended(self) -> bool:
        """Whether the reader has received the job's ending."""
        return self._reported is not None and self._reported.terminal

    @property
    def _over(self) -> bool:
        """Whether the ending has arrived, even if the reader has not received it yet."""
        return self._ending is not None or self.ended

    # ── the hub's side: synchronous, cheap, never fails ──

    def deliver(self, offset: int, data: bytes) -> None:
        """Receives live bytes of the log that start at `offset`. If the reader has a sink and needs these bytes next,
        they go to the sink without waking the reader.
        """
        if self._sink is not None and offset == self._position and not (self._buffered or self._stale):
            self._position += len(data)
            self._delivered_any = True
            if self._patience is not None:
                self._until = asyncio.get_running_loop().time() + self._patience
            if self._sink(data):
                return
            self._sink, self._sink_full = None, True
        elif self._filling is not None:
            self._filling.append((offset, data))
        elif not self._stale:
            self._accept(offset, data)
        self._wake()

    def move(self, status: JobStatus) -> None:
        if self._over:  # This live message is older than what was read from the log.
            return
        self._status = status
        self._wake()

    def end(self, size: int, ending: Ending) -> None:
        """Receives the job's ending. `size`: bytes of its whole log."""
        if self._over:
            return
        if self._filling is not None or size != self._position + self._buffered:
            self._stale = True
        elif not self._stale:
            self._ending, self._status = ending, ending.status
        self._wake()

    def distrust(self) -> None:
        """Makes the reader read the log, because live bytes may have been lost."""
        if self.ended:
            return
        self._stale = True
        self._wake()

    def close(self) -> None:
        self._closed = True
        self._sink = None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._wake()

    def _accept(self, offset: int, data: bytes) -> None:
        expected = self._position + self._buffered
        if offset > expected:
            self._stale = True
            return
        fresh = data[expected - offset :] if offset < expected else data
        if self._buffered + len(fresh) > BUFFER_LIMIT:
            self._parts, self._buffered, self._stale = [], 0, True
        elif fresh:
            self._parts.append(fresh)
            self._buffered += len(fresh)

    def _wake(self) -> None:
        if self._waiter is not None:
            resolve(self._waiter, True)

    # ── the reader's side ──

    async def next(self, timeout: float | None = None, sink: Sink | None = None) -> Update | None:
        self._patience = timeout
        self._until = None if timeout is None else asyncio.get_running_loop().time() + timeout
        while True:
            if self._closed:
                raise FollowerClosed(self.job_id)
            if self._stale and not self._parts:
                await self._fill()
            if (update := self._take()) is not None:
                return update
            if not (self._stale or self._closed) and not await self._wait(sink):
                self._stale = True  # The live path may have failed silently: the next call reads the log.
                return None

    def _take(self) -> Update | None:
        news = self._parts or self._ending or self._status is not self._reported or self._sink_full
        if self._status is None or not news:
            return None
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._position += len(data)
        self._delivered_any |= bool(data)
        self._parts, self._buffered, self._sink_full = [], 0, False
        ending, self._ending = self._ending, None
        self._reported = self._status
        return Update(data, self._status, ending)

    async def _wait(self, sink: Sink | None) -> bool:
        """Waits until `_until` (loop time). Returns whether there is news, other than bytes for the `sink`."""
        self._waiter = asyncio.get_running_loop().create_future()
        self._sink = sink
        if self._until is not None and (self._alarm is None or self._until < self._alarm.when()):
            self._set_alarm(self._until)
        try:
            return await self._waiter
        finally:
            self._waiter = self._sink = None

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        """Ends the wait, if its time has come. One timer serves many waits: it is set again for the current one."""
        self._alarm = None
        if self._waiter is None or self._until is None:
            return
        if self._until > asyncio.get_running_loop().time():
            self._set_alarm(self._until)
        else:
            resolve(self._waiter, False)

    async def _fill(self) -> None:
        """Reads the next bytes of the log, and then adds live bytes that arrived meanwhile."""
        self._stale, self._filling = False, []
        meanwhile = self._filling
        try:
            snapshot = await self._read(self.job_id, self._position, self._read_limit())
        except BaseException:
            self._stale = True
            raise
        finally:
            self._filling = None
        if snapshot is None:
            self._stale = True
            if self._delivered_any:
                raise LogLost("The store has lost this stream.")
            raise Gone(f"The data of job '{self.job_id}' has expired.")
        self._take_snapshot(snapshot)
        for offset, data in meanwhile:
            self._accept(offset, data)

    def _read_limit(self) -> int:
        taken = self._position - self._since
        return min(max(READ_LEAST, taken // READ_SHARE), READ_MOST)

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        if self._delivered_any and snapshot.epoch != self._epoch:
            self._stale = True
            raise LogLost("The store lost this stream; its job is run again from the start, under the same id.")
        self._epoch = snapshot.epoch
        self._status = snapshot.status
        if snapshot.data:
            self._parts, self._buffered = [snapshot.data], len(snapshot.data)
        if self._position + self._buffered < snapshot.size:
            self._stale = True
        elif snapshot.ending is not None and self._delivered_any and snapshot.size < self._position:
            self._stale = True
            raise LogLost("The store has lost the end of this stream.")
        elif snapshot.ending is not None:
            self._ending, self._stale = snapshot.ending, False
