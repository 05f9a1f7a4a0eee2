"""Repeats steps until the broker and the store answer again.

tenacity is not used: every step of a job passes here, and it builds a dozen objects even for a call that succeeds.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from shared.errors import BackendUnavailable, BrokerUnavailable
from shared.outages import Outage

log = structlog.get_logger(__name__)

T = TypeVar("T")

UNAVAILABLE: tuple[type[Exception], ...] = (BackendUnavailable,)
PAUSES = (0.1, 2.0)
"""Seconds. The first pause, and the longest."""


class Waiting:
    """The steps of this process that wait for one part. Its outage is logged once, and so is its end."""

    def __init__(self) -> None:
        self._outage = Outage()
        self._steps = 0

    def join(self, part: str, error: Exception) -> None:
        self._steps += 1
        if self._outage.begins():
            log.warning("backend.unavailable", part=part, error=str(error), next="trying again until it answers")

    def leave(self, part: str, *, answered: bool) -> None:
        self._steps -= 1
        if answered and (seconds := self._outage.ends()) is not None:
            log.info("backend.back", part=part, after=seconds)
        elif not self._steps:
            self._outage = Outage()  # No step waits any more, so the end would not be noticed.


_waiting: defaultdict[str, Waiting] = defaultdict(Waiting)
"""By part: broker or store. Of the process, as its log is."""


def part_of(error: Exception) -> str:
    return "broker" if isinstance(error, BrokerUnavailable) else "store"


async def retry_while_unavailable(
    step: Callable[[], Awaitable[T]],
    *,
    on: tuple[type[Exception], ...] = UNAVAILABLE,
    pauses: tuple[float, float] = PAUSES,
    until: float = math.inf,
    report: Callable[[Exception, float], None] | None = None,
) -> T:
    """Repeats an idempotent step while it raises one of `on`. The pauses double, from the first of `pauses` to the
    longest. `report` is called before each; without it, the outage is logged at its start and at its end. Raises the
    step's error once `until`, a Unix time, has passed.
    """
    try:
        return await step()
    except on as error:
        first = error
    if report is not None:
        return await _repeat(step, first, on=on, pauses=pauses, until=until, report=report)
    part, answered = part_of(first), False
    waiting = _waiting[part]
    waiting.join(part, first)
    try:
        result = await _repeat(step, first, on=on, pauses=pauses, until=until, report=lambda error, pause: None)
        answered = True
        return result
    finally:
        waiting.leave(part, answered=answered)


async def _repeat(
    step: Callable[[], Awaitable[T]],
    error: Exception,
    *,
    on: tuple[type[Exception], ...],
    pauses: tuple[float, float],
    until: float,
    report: Callable[[Exception, float], None],
) -> T:
    """Repeats a step that has raised `error`."""
    pause, longest = pauses
    while True:
        if time.time() >= until:
            raise error
        report(error, pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, longest)
        try:
            return await step()
        except on as again:
            error = again
