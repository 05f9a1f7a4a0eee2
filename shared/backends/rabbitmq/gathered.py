"""Sends frames of one channel in one system call, because each write wakes the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiormq.abc import ChannelFrame
from aiormq.channel import Channel as RawChannel

LOOK_AGAIN = 0.001
"""Seconds after which a full write queue of the connection is tried again."""


class GatheredFrames:
    """Replaces the queue from which the driver's connection writes. Frames that come within `seconds` after the last
    write wait until then; other frames are sent at the end of the loop iteration.
    """

    def __init__(
        self, queue: asyncio.Queue[ChannelFrame], seconds: float, promise: Callable[[], asyncio.Future[Any]]
    ) -> None:
        """`promise` returns a future that fails when the channel does."""
        self._queue = queue
        self._promise = promise
        self._over = promise()
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._payloads: list[bytes] = []
        self._sent_at = 0.0

    async def put(self, frame: ChannelFrame) -> None:
        """Adds a frame. A frame that a caller waits for is sent at once, behind the gathered ones."""
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
        """Sends the driver's answer after the broker has closed the channel, and drops gathered frames: a frame behind
        it would be an error of the whole connection, which other channels share. Raises asyncio.QueueFull.
        """
        self._payloads = []
        self._queue.put_nowait(frame)

    async def drain(self) -> None:
        """Returns when all frames have been written. Raises the error of the channel."""
        written = self._promise()
        await self.put(ChannelFrame(payload=b"", should_close=False, drain_future=written))
        await written

    def flush(self) -> None:
        if self._over.done():  # The connection is closed: nothing reads its queue any more.
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
    """Makes `channel` gather the frames that it sends within `seconds`."""
    raw = cast(Any, channel)
    frames = raw.write_queue = GatheredFrames(raw.write_queue, seconds, raw.create_future)
    return frames
