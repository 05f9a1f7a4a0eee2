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

SHORTEST_LOOK = 0.01
"""Seconds between looks."""


class Confirms:
    """What has been heard of one queue's messages. One timer looks after all that wait."""

    def __init__(self, patience: Patience = PATIENCE) -> None:
        self.patience = patience
        self.heard_at = -math.inf
        self._waiting: set[Waiting] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def heard_lately(self) -> bool:
        return self.heard_at > asyncio.get_running_loop().time() - self.patience.silence

    async def wait(self, publishing: Awaitable[object]) -> None:
        """Returns once the broker has confirmed. Raises TimeoutError when it has become silent, or whatever
        `publishing` does.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as scope:
            waiting = Waiting(scope, loop.time())
            self._waiting.add(waiting)
            if self._timer is None:
                self._look_later(loop)
            try:
                await publishing
                self.heard_at = loop.time()
            except DeliveryError:
                self.heard_at = loop.time()
                raise
            finally:
                self._waiting.discard(waiting)

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        patience = self.patience
        every = max(min(patience.silence, patience.second_look, patience.at_most), SHORTEST_LOOK)
        self._timer = loop.call_later(every, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        for waiting in self._waiting:
            if waiting.in_vain(now, self.heard_at, self.patience):
                waiting.scope.reschedule(now)
        if self._waiting:
            self._look_later(loop)


class Waiting:
    """One message's wait, inside of `scope`, since the loop's clock said `since`."""

    __slots__ = ("_silent_since", "scope", "since")

    def __init__(self, scope: asyncio.Timeout, since: float) -> None:
        self.scope = scope
        self.since = since
        self._silent_since: float | None = None

    def in_vain(self, now: float, heard_at: float, patience: Patience) -> bool:
        """Whether it has taken too long: by itself, or because the broker was silent when looked at twice."""
        if now - self.since >= patience.at_most:
            return True
        if max(self.since, heard_at) + patience.silence > now:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        return self._silent_since is not None and now - self._silent_since >= patience.second_look
