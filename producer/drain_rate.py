"""How fast queues drain, measured by the jobs that wait in them: what Retry-After and ETAs come from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SMOOTHING = 0.3
UNKNOWN = 5.0
"""Seconds to come back after where nothing has been measured yet."""

REMEMBERED = 10_000


@dataclass(slots=True)
class Seen:
    position: int
    at: float


class DrainRate:
    """Jobs per second by queue, from two looks at the same job's position."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rates: dict[str, float] = {}
        self._seen: dict[str, Seen] = {}

    def observe(self, queue: str, job_id: str, position: int) -> None:
        now = self._clock()
        before = self._seen.pop(job_id, None)
        if before is not None and now > before.at and before.position > position:
            self._mix(queue, (before.position - position) / (now - before.at))
        self._seen[job_id] = Seen(position, now)
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def _mix(self, queue: str, rate: float) -> None:
        old = self._rates.get(queue, rate)
        self._rates[queue] = old + SMOOTHING * (rate - old)

    def estimate(self, queue: str, position: int) -> float | None:
        """Seconds until the job at `position` (from 0) comes up; None where nothing has been measured."""
        rate = self._rates.get(queue)
        return None if not rate else (position + 1) / rate

    def seconds_for(self, queue: str, jobs: int) -> float:
        """Seconds until `jobs` more have left the queue."""
        rate = self._rates.get(queue)
        return UNKNOWN if not rate else jobs / rate
