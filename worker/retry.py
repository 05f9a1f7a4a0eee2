"""Repeats steps until the broker and the store answer again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from shared.errors import BackendUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")


async def retry_while_unavailable(step: Callable[[], Awaitable[T]]) -> T:
    """Repeats an idempotent step until the broker and the store are available. Waits 0.1 s to 2 s between tries."""
    delay = 0.1
    while True:
        try:
            return await step()
        except BackendUnavailable as error:
            log.warning("backend.unavailable", error=str(error), next=f"trying again in {delay:.1f} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)
