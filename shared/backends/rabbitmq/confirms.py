"""Waits for the broker's confirms. A broker that goes on confirming other messages of the queue is slow, but not
silent. A timeout would then refuse calls that the broker is about to accept.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from dataclasses import dataclass

from aio_pika.exceptions import DeliveryError


@dataclass(frozen=True, slots=True)
class ConfirmTimeouts:
    """Timeouts in seconds. `silence`: without any confirm for the queue; `grace`: added after that, because a process
    that had no CPU time may not have read the confirms yet; `total`: for one message.
    """

    silence: float = 4.0
    grace: float = 1.0
    total: float = 30.0


TIMEOUTS = ConfirmTimeouts()

SHORTEST_CHECK = 0.01
"""Least seconds between two checks."""


class Confirms:
    """Tracks the confirms of one queue. One timer checks all waiting messages."""

    def __init__(self, timeouts: ConfirmTimeouts = TIMEOUTS) -> None:
        self.timeouts = timeouts
        self.answered_at = -math.inf
        self._waiting: set[PendingConfirm] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def answered_lately(self) -> bool:
        return self.answered_at > asyncio.get_running_loop().time() - self.timeouts.silence

    async def wait(self, publishing: Awaitable[object]) -> None:
        """Returns when the broker has confirmed the message. Raises TimeoutError if the broker is silent, or the error
        of `publishing`.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as scope:
            waiting = PendingConfirm(scope, loop.time())
            self._waiting.add(waiting)
            if self._timer is None:
                self._check_later(loop)
            try:
                await publishing
                self.answered_at = loop.time()
            except DeliveryError:
                self.answered_at = loop.time()
                raise
            finally:
                self._waiting.discard(waiting)

    def _check_later(self, loop: asyncio.AbstractEventLoop) -> None:
        timeouts = self.timeouts
        every = max(min(timeouts.silence, timeouts.grace, timeouts.total), SHORTEST_CHECK)
        self._timer = loop.call_later(every, self._check)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        for waiting in self._waiting:
            if waiting.timed_out(now, self.answered_at, self.timeouts):
                waiting.scope.reschedule(now)
        if self._waiting:
            self._check_later(loop)


class PendingConfirm:
    """One waiting message. `scope`: the timeout to trigger; `since`: loop time at which it was published."""

    __slots__ = ("_silent_since", "scope", "since")

    def __init__(self, scope: asyncio.Timeout, since: float) -> None:
        self.scope = scope
        self.since = since
        self._silent_since: float | None = None

    def timed_out(self, now: float, answered_at: float, timeouts: ConfirmTimeouts) -> bool:
        """Whether to give up: after `total`, or if the broker was silent in two checks that are `grace` apart."""
        if now - self.since >= timeouts.total:
            return True
        if max(self.since, answered_at) + timeouts.silence > now:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        return self._silent_since is not None and now - self._silent_since >= timeouts.grace
