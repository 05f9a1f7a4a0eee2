"""Checks of large requests, beside the event loop.

Parsing and validating hold Python's lock for as long as they take (some 40 ms at most: shared/schema/bounds.py), so a
thread alone does not keep others from waiting. One thread does all of them, and rests after each for longer than it
took: the event loop has most of the time, however many large requests come at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shared.schema import is_heavy

T = TypeVar("T")

REST, LONGEST_REST = 2.0, 0.2
"""Times what the check took; at most so many seconds."""


class LargeRequestChecks:
    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="check")

    async def run(self, body: bytes, check: Callable[[], T], *, heavy: bool | None = None) -> T:
        """What `check` of this body returns or raises. `heavy`: whether it takes long, where the body is no JSON."""
        if not (is_heavy(body) if heavy is None else heavy):
            return check()
        took: list[float] = []
        checked = asyncio.get_running_loop().run_in_executor(self._thread, measured, check, took)
        self._thread.submit(rest, took)
        try:
            return await checked
        finally:
            # An error's traceback leads to this frame, and the future to the error: in such a circle the body of a
            # refused request would stay until a garbage collection, which is rare here.
            del checked

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def measured(check: Callable[[], T], took: list[float]) -> T:
    since = time.perf_counter()
    try:
        return check()
    finally:
        took.append(time.perf_counter() - since)


def rest(took: list[float]) -> None:
    """After the check, whose caller has its result meanwhile. One that was cancelled took no time."""
    time.sleep(min(REST * sum(took), LONGEST_REST))
