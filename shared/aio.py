"""Work side by side: of which the first to end decides, or of which nobody asks how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first(*works: Coroutine[Any, Any, Any]) -> Any:
    """The outcome of whichever ends first, its error included; the others are cancelled."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run_and_discard(work: asyncio.Future[Any]) -> None:
    """A done callback: looks at the outcome of what nobody awaits, so that asyncio does not complain about it."""
    if not work.cancelled():
        work.exception()
