"""Helpers for asyncio tasks and futures."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first(*works: Coroutine[Any, Any, Any]) -> Any:
    """Runs coroutines concurrently. Returns the result of the first to end, or raises its error; cancels the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run_and_discard(work: asyncio.Future[Any]) -> None:
    """A done callback that discards the outcome, so that asyncio does not log an unretrieved exception."""
    if not work.cancelled():
        work.exception()
