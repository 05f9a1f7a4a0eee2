"""Counts the usage of limited keys in memory. A restart of the process resets the counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from shared.limits import Count, Limits, Verdict, of_lines

SWEEP_AT = 1000
"""Number of counts from which those that equal a new count are removed."""


class EmbeddedLimiter:
    def __init__(self) -> None:
        self._counts: dict[str, tuple[Limits, Count]] = {}

    async def take(self, key: str, limits: Limits, job_id: str, *, tokens: int, until: float) -> Verdict:
        if len(self._counts) >= SWEEP_AT:
            self._sweep()
        key, lines = of_lines(key)
        _, count = self._counts.setdefault(key, (limits, Count()))
        take = count.take_line if lines else count.take
        return take(limits, job_id, tokens, until, time.time())

    def charge(self, key: str, job_id: str, *, used: int | None) -> asyncio.Future[None]:
        key, _ = of_lines(key)
        if key in self._counts:
            limits, count = self._counts[key]
            count.charge(limits, job_id, used, time.time())
        return done()

    def refund(self, key: str, job_id: str) -> asyncio.Future[None]:
        if key in self._counts:
            limits, count = self._counts[key]
            count.refund(limits, job_id, time.time())
        return done()

    async def open_jobs(self, key: str, limit: int, *, skip: int = 0) -> Sequence[str]:
        key, lines = of_lines(key)
        _, count = self._counts.get(key, (None, Count()))
        open_jobs = count.lines if lines else count.jobs
        oldest = sorted(open_jobs, key=lambda job_id: open_jobs[job_id].until)
        return oldest[skip : skip + limit]

    def _sweep(self) -> None:
        now = time.time()
        self._counts = {
            key: (limits, count) for key, (limits, count) in self._counts.items() if not count.idle(limits, now)
        }


def done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
