"""Limits how many requests the engine gets at once while it says that it is overloaded.

The limit moves like TCP's congestion window. An overloaded engine gets no requests for as long as it asks, and the
limit is halved, once for each pause. Each answer that comes while the limit is reached raises it: by 1 below the
threshold, by 1/limit above. The threshold is half of the requests that ran when an engine that had been answering began
to refuse. An engine that refuses everything (while it starts, say) does not change the threshold, so the limit is back
soon after its first answer.

A refused request keeps its slot and its claim, and is sent again after the pause; no try is counted. Waiting
requests of higher tiers are sent first.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import structlog

from shared.errors import EngineOverloaded
from shared.job import Tier
from worker.slots import TIERS

log = structlog.get_logger(__name__)

T = TypeVar("T")

LONGEST_PAUSE = 60.0
"""Seconds after which a request is sent again, whatever wait the engine has asked for."""

FIRST_PAUSE = 0.5
LAST_PAUSE = 15.0
"""Seconds to pause where the engine does not say how long; doubled with each refusal in a row, up to the last."""

SHORTEST_PAUSE = 0.05
SHORTEST_LAST = 1.0
"""The least pause where the engine does say, likewise doubled: repeated waits of 0 s must not become a busy loop."""

LOG_EVERY = 60.0
"""Seconds between two log events of overload: an engine with a rate limit refuses a request every second or two."""

JITTER = 0.25
"""The most by which a pause is longer, as a share of it, so that workers do not retry at the same moment."""


class Throttle:
    """Calls `limit_changed` when the number of jobs that can start changes."""

    def __init__(
        self,
        concurrency: int,
        limit_changed: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = self._limit = self._threshold = concurrency
        self._credit = 0.0
        self._answers = 0
        self._overloaded_since = 0.0
        self._logged_at: float | None = None
        self._overload_logged = False
        self._limit_changed = limit_changed
        self._clock = clock
        self._sent = 0
        self._refusals = 0
        self._resumes_at = 0.0
        self._waiting = {tier: deque[asyncio.Future[None]]() for tier in TIERS}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit(self) -> int:
        """How many requests the engine takes at present, as far as the worker knows."""
        return self._limit

    async def run(
        self,
        send: Callable[[], Awaitable[T]],
        tier: Tier = Tier.DEFAULT,
        *,
        refused: Callable[[EngineOverloaded], None] | None = None,
    ) -> T:
        """Returns the result of `send`. Calls `refused`, and then `send` again, after each EngineOverloaded."""
        while True:
            await self._admitted(tier)
            try:
                result = await send()
            except EngineOverloaded as overloaded:
                if refused is not None:
                    refused(overloaded)
                self._on_overload(overloaded)
            else:
                self._on_answer()
                return result
            finally:
                self._sent -= 1
                self._admit()

    async def _admitted(self, tier: Tier) -> None:
        if self._has_room() and not self._has_waiters():
            self._sent += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[tier].append(waiter)
        self._admit()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._sent -= 1
                self._admit()
            else:
                with suppress(ValueError):
                    self._waiting[tier].remove(waiter)
            raise

    def _has_waiters(self) -> bool:
        return any(self._waiting.values())

    def _has_room(self) -> bool:
        return self._sent < self._limit and self._clock() >= self._resumes_at

    def _admit(self) -> None:
        """Admits waiting requests, highest tier and longest wait first; during a pause, schedules its end."""
        for waiters in self._waiting.values():
            while waiters and self._has_room():
                waiter = waiters.popleft()
                if not waiter.done():
                    self._sent += 1
                    waiter.set_result(None)
        rest = self._resumes_at - self._clock()
        if self._has_waiters() and rest > 0 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(rest, self._resumed)

    def _resumed(self) -> None:
        self._timer = None
        self._admit()

    def _on_answer(self) -> None:
        if self._overload_logged:
            self._overload_logged = False
            log.info("engine.answers_again", after=round(self._clock() - self._overloaded_since, 1), limit=self._limit)
        self._refusals = 0
        self._answers += 1
        if self._limit >= self._most or self._sent < self._limit:
            return
        self._credit += 1 if self._limit < self._threshold else 1 / self._limit
        if self._credit >= 1:
            self._credit = 0.0
            self._limit += 1
            self._limit_changed()

    def _on_overload(self, overloaded: EngineOverloaded) -> None:
        now = self._clock()
        if now < self._resumes_at:  # It was sent before the pause began.
            self._resumes_at = max(self._resumes_at, now + self._pause(overloaded))
            return
        pause = self._pause(overloaded)
        self._refusals += 1
        self._limit = max(1, min(self._sent, self._limit) // 2)
        if self._answers:
            self._threshold = self._limit
        self._answers, self._credit = 0, 0.0
        self._resumes_at = now + pause
        if self._refusals == 1 and (self._logged_at is None or now - self._logged_at >= LOG_EVERY):
            self._logged_at = self._overloaded_since = now
            self._overload_logged = True
            next_step = f"pausing for {pause:.1f} s, then asking for less"
            log.warning("engine.overloaded", reason=overloaded.message, limit=self._limit, next=next_step)
        self._limit_changed()

    def _pause(self, overloaded: EngineOverloaded) -> float:
        asked, growth = overloaded.retry_after, 2 ** min(self._refusals, 10)
        if asked is None:
            asked = min(FIRST_PAUSE * growth, LAST_PAUSE)
        pause = max(min(asked, LONGEST_PAUSE), min(SHORTEST_PAUSE * growth, SHORTEST_LAST))
        return pause * (1 + random.uniform(0, JITTER))
