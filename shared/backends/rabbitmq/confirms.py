"""Waiting for the broker's confirms. One that goes on confirming other messages of the queue is slow, not silent: to
give up for its slowness would refuse calls that it is about to accept.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from dataclasses import dataclass

from aio_pika.exceptions import DeliveryError


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds. `silence`: without a word about a queue's messages; `second_look`: until it is looked once more,
    since a process that got no time has not read yet what the broker has said long ago; `at_most`: for one message.
    """

    silence: float = 4.0
    second_look: float = 1.0
    at_most: float = 30.0


PATIENCE = Patience()


class Confirms:
    """What has been heard of one queue's messages."""

    def __init__(self, patience: Patience = PATIENCE) -> None:
        self.patience = patience
        self.heard_at = -math.inf

    @property
    def heard_lately(self) -> bool:
        return self.heard_at > asyncio.get_running_loop().time() - self.patience.silence

    async def wait(self, publishing: Awaitable[object]) -> None:
        """Returns once the broker has confirmed. Raises TimeoutError when it has become silent, or whatever
        `publishing` does.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.patience.at_most) as scope:
            watch = SilenceWatch(self, scope, loop)
            try:
                await publishing
                self.heard_at = loop.time()
            except DeliveryError:
                self.heard_at = loop.time()
                raise
            finally:
                watch.end()


class SilenceWatch:
    """Ends `scope` when nothing has been heard for as long as is patient."""

    def __init__(self, confirms: Confirms, scope: asyncio.Timeout, loop: asyncio.AbstractEventLoop) -> None:
        self._confirms = confirms
        self._scope = scope
        self._loop = loop
        self._began = loop.time()
        self._looked = False
        self._timer = loop.call_later(confirms.patience.silence, self._look)

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now, patience = self._loop.time(), self._confirms.patience
        left = max(self._began, self._confirms.heard_at) + patience.silence - now
        if left > 0:
            self._looked = False
            self._timer = self._loop.call_later(left, self._look)
        elif not self._looked:
            self._looked = True
            self._timer = self._loop.call_later(patience.second_look, self._look)
        else:
            self._scope.reschedule(now)
