"""Runs steps in the background and retries them while the backend is unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from shared.errors import BackendUnavailable
from shared.retry import retry_while_unavailable

log = structlog.get_logger(__name__)

TRY_AGAIN = 1.0
CLOSE_PATIENCE = 2.0
"""Seconds that `close` waits for unfinished steps."""


class BackgroundRetries:
    """Owns the retry tasks, and logs those that crash."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def retry_until_done(self, name: str, step: Callable[[], Awaitable[object]], until: float) -> None:
        """Runs `step`, which must be idempotent, until it succeeds; gives up at `until` (Unix time)."""
        task = asyncio.create_task(retry_until_done(name, step, until), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def close(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_PATIENCE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background_retry.crashed", task=task.get_name(), exc_info=error, next="not tried again")


async def retry_until_done(name: str, step: Callable[[], Awaitable[object]], until: float) -> None:
    def report(error: Exception, pause: float) -> None:
        next_step = f"tried again in {pause:.0f} s"
        log.warning("background_retry.delayed", task=name, error=str(error), next=next_step)

    try:
        await retry_while_unavailable(step, pauses=(TRY_AGAIN, TRY_AGAIN), until=until, report=report)
    except BackendUnavailable as error:
        log.warning("background_retry.abandoned", task=name, error=str(error), next="not tried again")
