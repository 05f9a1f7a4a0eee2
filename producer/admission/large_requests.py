"""Checks large requests in a thread, so that the event loop keeps running.

Parsing and validating hold Python's lock throughout (some 40 ms at most: shared/schema/bounds.py), so a thread alone is
not enough. One thread runs all checks and sleeps after each for longer than the check took: most of the time is left to
the event loop, however many large requests arrive at once.
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
"""The pause after a check as a multiple of its duration, and its maximum in seconds."""


class LargeRequestChecks:
    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="check")

    async def run(self, body: bytes, check: Callable[[], T], *, heavy: bool | None = None) -> T:
        """Runs `check` of this body; returns or raises what it does. `heavy`: whether the check takes long; by default
        it is derived from the body, which must be JSON.
        """
        if not (is_heavy(body) if heavy is None else heavy):
            return check()
        took: list[float] = []
        checked = asyncio.get_running_loop().run_in_executor(self._thread, measured, check, took)
        self._thread.submit(rest, took)
        try:
            return await checked
        finally:
            # An error's traceback refers to this frame, and the future to the error: such a cycle would keep the body
            # of a refused request until a garbage collection, which is rare here.
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
    """Sleeps after a check, whose caller already has the result. `took` is empty if the check was cancelled."""
    time.sleep(min(REST * sum(took), LONGEST_REST))
