"""Measures how fast queues drain, by counting started jobs. Retry-After, ETAs and refusals are based on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

WINDOW = 1.0
"""Seconds between two counts that give a rate."""

STALE = 30.0
"""Seconds after which a measurement is no longer trusted."""

SMOOTHING = 0.3
UNKNOWN = 5.0
"""Seconds. The estimate for a queue without a measurement."""

ENOUGH = 10
"""Jobs that must have been started for a measurement to be trusted."""


@dataclass(slots=True)
class Measured:
    """A queue's last counts, and its smoothed rate in jobs per second."""

    started: int
    waiting: int
    at: float
    rate: float | None = None
    seen: int = 0


class DrainRate:
    """The drain rate of each queue. Intervals after an empty queue are skipped: they show the arrival rate."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queues: dict[str, Measured] = {}

    def observe(self, queue: str, started: int, waiting: int) -> None:
        """Records the number of the queue's jobs that have ever started, and of those that wait now."""
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
        """Returns the seconds until the job at `position` (from 0) starts, or None without a measurement."""
        last = self._queues.get(queue)
        return None if last is None or not last.rate else (position + 1) / last.rate

    def trusted(self, queue: str, position: int) -> float | None:
        """Returns `estimate` if its measurement is recent and of enough jobs, else None."""
        last = self._queues.get(queue)
        recent = last is not None and self._clock() - last.at <= STALE and last.seen >= ENOUGH
        return self.estimate(queue, position) if recent else None

    def seconds_for(self, queue: str, jobs: int) -> float:
        """Returns the seconds until `jobs` more have left the queue."""
        return self.estimate(queue, jobs - 1) or UNKNOWN
