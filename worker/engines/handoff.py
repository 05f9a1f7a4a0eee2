"""Items from other threads to one reader on the event loop: one wake-up per batch, not one per item."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Generic, TypeVar

from shared.errors import EngineError

T = TypeVar("T")


class Handoff(Generic[T]):
    """`put` from any thread; iterate on the loop that made it.

    Silence past `stall_timeout` seconds is an EngineError.
    """

    def __init__(self, stall_timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._stall_timeout = stall_timeout
        self._items: deque[T] = deque()
        self._waking = False
        self._reader: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        self._items.append(item)
        # The loop clears `_waking` before it looks at `_items`: what comes before that is seen, what comes
        # after wakes it again.
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop has closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._wake)

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        while True:
            while self._items:
                yield self._items.popleft()
            await self._more()

    def _wake(self) -> None:
        self._waking = False
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def _more(self) -> None:
        self._reader = self._loop.create_future()
        alarm = self._loop.call_later(self._stall_timeout, self._stalled)
        try:
            if not self._items:
                await self._reader
        finally:
            alarm.cancel()
            self._reader = None

    def _stalled(self) -> None:
        if self._reader is not None and not self._reader.done():
            silence = f"The engine has produced nothing for {self._stall_timeout:g} seconds."
            self._reader.set_exception(EngineError(silence))
