"""How fast queues drain, measured by how many jobs have been started: what Retry-After, ETAs and refusals come from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

WINDOW = 1.0
"""Seconds between two looks that say something."""

STALE = 30.0
"""Seconds after which a measurement is not to be trusted any more."""

SMOOTHING = 0.3
UNKNOWN = 5.0
"""Seconds to come back after where nothing has been measured yet."""

ENOUGH = 10
"""Jobs that must have been started for a measurement to be trusted."""


@dataclass(slots=True)
class Measured:
    """The last look at a queue, and jobs per second from all of them."""

    started: int
    waiting: int
    at: float
    rate: float | None = None
    seen: int = 0


class DrainRate:
    """Jobs per second by queue. A queue that was empty in between tells how fast jobs came, so it is not counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queues: dict[str, Measured] = {}

    def observe(self, queue: str, started: int, waiting: int) -> None:
        """So many jobs of the queue have ever been started, and so many wait now."""
        now = self._clock()
        last = self._queues.get(queue)
        if last is None or started < last.started or not last.waiting:
            rate, seen = (last.rate, last.seen) if last else (None, 0)
            self._queues[queue] = Measured(started, waiting, now, rate=rate, seen=seen)
        elif now - last.at >= WINDOW:
            count = started - last.started
            fresh = count / (now - last.at)
            rate = fresh if last.rate is None else last.rate + SMOOTHING * (fresh - last.rate)
            self._queues[queue] = Measured(started, waiting, now, rate=rate, seen=last.seen + count)

    def estimate(self, queue: str, position: int) -> float | None:
        """Seconds until the job at `position` (from 0) is started; None where nothing has been measured."""
        last = self._queues.get(queue)
        return None if last is None or not last.rate else (position + 1) / last.rate

    def trusted(self, queue: str, position: int) -> float | None:
        """The same from a measurement that is recent and of enough jobs, else None."""
        last = self._queues.get(queue)
        recent = last is not None and self._clock() - last.at <= STALE and last.seen >= ENOUGH
        return self.estimate(queue, position) if recent else None

    def seconds_for(self, queue: str, jobs: int) -> float:
        """Seconds until `jobs` more have left the queue."""
        return self.estimate(queue, jobs - 1) or UNKNOWN
