"""Frames of one channel that leave in one system call: each one of its own would wake the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiormq.abc import ChannelFrame
from aiormq.channel import Channel as RawChannel

LOOK_AGAIN = 0.001
"""Seconds until a connection that has more to write than it likes is offered more."""


class GatheredFrames:
    """Stands in the place of the queue from which the driver's connection writes. What comes within `seconds` of the
    last write waits until they are over; what comes later goes out at the end of the turn.
    """

    def __init__(
        self, queue: asyncio.Queue[ChannelFrame], seconds: float, promise: Callable[[], asyncio.Future[Any]]
    ) -> None:
        """`promise` makes a future that fails when the channel does."""
        self._queue = queue
        self._promise = promise
        self._over = promise()
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._payloads: list[bytes] = []
        self._sent_at = 0.0

    async def put(self, frame: ChannelFrame) -> None:
        """What somebody waits for takes along what has gathered."""
        if frame.should_close or frame.should_drain:
            if self._payloads:
                await self._queue.put(self._gathered())
            await self._queue.put(frame)
            return
        self._payloads.append(frame.payload)
        if len(self._payloads) == 1:
            left = self._sent_at + self._seconds - self._loop.time()
            if left > 0:
                self._loop.call_later(left, self.flush)
            else:
                self._loop.call_soon(self.flush)

    def put_nowait(self, frame: ChannelFrame) -> None:
        """The driver's answer to a broker that has closed the channel. What came after it would be an error of the
        whole connection, which others share. Raises asyncio.QueueFull.
        """
        self._payloads = []
        self._queue.put_nowait(frame)

    async def drain(self) -> None:
        """Returns when all that was put is on its way. Raises what the channel fails with."""
        written = self._promise()
        await self.put(ChannelFrame(payload=b"", should_close=False, drain_future=written))
        await written

    def flush(self) -> None:
        if self._over.done():  # Nobody takes anything from the queue of a connection that has died.
            self._payloads = []
        elif self._payloads and self._queue.full():
            self._loop.call_later(LOOK_AGAIN, self.flush)
        elif self._payloads:
            self._queue.put_nowait(self._gathered())

    def _gathered(self) -> ChannelFrame:
        frame = ChannelFrame(payload=b"".join(self._payloads), should_close=False)
        self._payloads = []
        self._sent_at = self._loop.time()
        return frame


def gather_frames(channel: RawChannel, seconds: float) -> GatheredFrames:
    """What `channel` sends without waiting leaves together with what it sends within `seconds`."""
    raw = cast(Any, channel)
    frames = raw.write_queue = GatheredFrames(raw.write_queue, seconds, raw.create_future)
    return frames
