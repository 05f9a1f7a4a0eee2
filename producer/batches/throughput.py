"""Measures how many tokens a second the workers start from each queue. Pure, but for the clock.

Only intervals with waiting jobs at both ends count: others show how fast jobs arrive. Older intervals count less, by
exp(-age / MEMORY), so that the rate follows workers that come and go. Tokens are estimates, like those of the work that
is compared with the rate, so an estimate that is wrong by a factor cancels out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from shared.ports import Backlog

Confidence = Literal["none", "low", "high"]

INTERVAL = 1.0
"""Least seconds between two counts that give a rate."""

MEMORY = 30.0
"""Seconds after which an interval counts e times less."""

ENOUGH_JOBS, ENOUGH_SECONDS = 20.0, 3.0
"""What must have been counted for a high confidence."""

RECENT = 60.0
"""Seconds after which a measurement has a low confidence."""


@dataclass(slots=True)
class Counted:
    """A queue's last counts and its decayed sums. `at`: of the last counts; `measured_at`: of the last interval."""

    backlog: Backlog
    at: float
    measured_at: float = -math.inf
    seconds: float = 0.0
    tokens: float = 0.0
    jobs: float = 0.0


class Throughput:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queues: dict[str, Counted] = {}

    def observe(self, queue: str, backlog: Backlog) -> None:
        now, last = self._clock(), self._queues.get(queue)
        if last is None or backlog.started < last.backlog.started:
            self._queues[queue] = Counted(backlog, now)
            return
        passed = now - last.at
        if passed < INTERVAL:
            return
        if last.backlog.jobs and backlog.jobs:
            kept = math.exp(-passed / MEMORY)
            last.seconds = last.seconds * kept + passed
            last.tokens = last.tokens * kept + max(0, backlog.started_tokens - last.backlog.started_tokens)
            last.jobs = last.jobs * kept + backlog.started - last.backlog.started
            last.measured_at = now
        last.backlog, last.at = backlog, now

    def rate(self, queue: str) -> float | None:
        """Returns the queue's tokens per second, or None without a measurement."""
        found = self._queues.get(queue)
        return found.tokens / found.seconds if found is not None and found.seconds else None

    def confidence(self, queue: str) -> Confidence:
        found = self._queues.get(queue)
        if found is None or not found.seconds:
            return "none"
        enough = found.jobs >= ENOUGH_JOBS and found.seconds >= ENOUGH_SECONDS
        return "high" if enough and self._clock() - found.measured_at <= RECENT else "low"
