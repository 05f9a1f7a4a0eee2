"""Repeats steps until the broker and the store answer again.

tenacity is not used: every step of a job passes here, and it builds a dozen objects even for a call that succeeds.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from shared.errors import BackendUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

UNAVAILABLE: tuple[type[Exception], ...] = (BackendUnavailable,)
PAUSES = (0.1, 2.0)
"""Seconds. The first pause, and the longest."""


def log_unavailable(error: Exception, pause: float) -> None:
    log.warning("backend.unavailable", error=str(error), next=f"trying again in {pause:.1f} s")


async def retry_while_unavailable(
    step: Callable[[], Awaitable[T]],
    *,
    on: tuple[type[Exception], ...] = UNAVAILABLE,
    pauses: tuple[float, float] = PAUSES,
    until: float = math.inf,
    report: Callable[[Exception, float], None] = log_unavailable,
) -> T:
    """Repeats an idempotent step while it raises one of `on`. The pauses double, from the first of `pauses` to the
    longest. `report` is called before each. Raises the step's error once `until`, a Unix time, has passed.
    """
    pause, longest = pauses
    while True:
        try:
            return await step()
        except on as error:
            if time.time() >= until:
                raise
            report(error, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)
