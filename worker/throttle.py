"""How many requests the engine is sent at once, while it says that it is overloaded.

Theory. The limit moves as TCP's congestion window does. An engine that answers "later" gets nothing for as long as it
asks, and the limit is halved, once for each pause. Each answer that comes while the limit is reached raises it: by one
below the threshold, by its share of one above. The threshold is half of what was under way when an engine that had been
answering began to refuse; an engine that refuses everything (it starts, say) leaves the threshold alone, and is back at
its old limit soon after its first answer.

A refused request keeps its slot and its claim, and is sent again after the pause; no try is counted. Of the requests
that wait, those of higher tiers are sent first.
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
"""Seconds after which an engine is asked again, whatever it has asked for."""

FIRST_PAUSE = 0.5
LAST_PAUSE = 15.0
"""Seconds, of an engine that does not say for how long; doubled with each refusal in a row up to the last."""

SHORTEST_PAUSE = 0.05
SHORTEST_LAST = 1.0
"""The same for the least pause of an engine that does say: "0" in a row is no reason to ask without end."""

SAID_EVERY = 60.0
"""Seconds between two reports of overload: an engine with a rate limit refuses something every second or two."""

JITTER = 0.25
"""A pause is longer by up to this share, so that workers do not come back together."""


class Throttle:
    """`limit_changed` is called when jobs may be started that could not be, or the other way round."""

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
        self._said_at: float | None = None
        self._is_said = False
        self._limit_changed = limit_changed
        self._clock = clock
        self._sent = 0
        self._refusals = 0
        self._resumes_at = 0.0
        self._waiting = {tier: deque[asyncio.Future[None]]() for tier in TIERS}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit(self) -> int:
        """How many requests the engine takes at present, as far as is known."""
        return self._limit

    async def run(self, send: Callable[[], Awaitable[T]], tier: Tier = Tier.DEFAULT) -> T:
        """The result of `send`, which is called again after each EngineOverloaded."""
        while True:
            await self._admitted(tier)
            try:
                result = await send()
            except EngineOverloaded as overloaded:
                self._overloaded(overloaded)
            else:
                self._answered()
                return result
            finally:
                self._sent -= 1
                self._admit()

    async def _admitted(self, tier: Tier) -> None:
        if self._has_room() and not self._anyone_waits():
            self._sent += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting[tier].append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._sent -= 1
                self._admit()
            else:
                with suppress(ValueError):
                    self._waiting[tier].remove(place)
            raise

    def _anyone_waits(self) -> bool:
        return any(self._waiting.values())

    def _has_room(self) -> bool:
        return self._sent < self._limit and self._clock() >= self._resumes_at

    def _admit(self) -> None:
        """Let those in that have waited longest, of the highest tier; while the engine pauses, come back at its end."""
        for places in self._waiting.values():
            while places and self._has_room():
                place = places.popleft()
                if not place.done():
                    self._sent += 1
                    place.set_result(None)
        rest = self._resumes_at - self._clock()
        if self._anyone_waits() and rest > 0 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(rest, self._resumed)

    def _resumed(self) -> None:
        self._timer = None
        self._admit()

    def _answered(self) -> None:
        if self._is_said:
            self._is_said = False
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

    def _overloaded(self, overloaded: EngineOverloaded) -> None:
        now = self._clock()
        if now < self._resumes_at:  # One of those that were under way when the pause began.
            self._resumes_at = max(self._resumes_at, now + self._pause(overloaded))
            return
        pause = self._pause(overloaded)
        self._refusals += 1
        self._limit = max(1, min(self._sent, self._limit) // 2)
        if self._answers:
            self._threshold = self._limit
        self._answers, self._credit = 0, 0.0
        self._resumes_at = now + pause
        if self._refusals == 1 and (self._said_at is None or now - self._said_at >= SAID_EVERY):
            self._said_at = self._overloaded_since = now
            self._is_said = True
            next_step = f"pausing for {pause:.1f} s, then asking for less"
            log.warning("engine.overloaded", reason=overloaded.message, limit=self._limit, next=next_step)
        self._limit_changed()

    def _pause(self, overloaded: EngineOverloaded) -> float:
        asked, growth = overloaded.retry_after, 2 ** min(self._refusals, 10)
        if asked is None:
            asked = min(FIRST_PAUSE * growth, LAST_PAUSE)
        pause = max(min(asked, LONGEST_PAUSE), min(SHORTEST_PAUSE * growth, SHORTEST_LAST))
        return pause * (1 + random.uniform(0, JITTER))
