"""Steps that outlast an outage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from shared.errors import BackendUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")


async def retry_while_unavailable(step: Callable[[], Awaitable[T]]) -> T:
    """Repeat a step, which may safely be repeated, until the broker and the store are back."""
    delay = 0.1
    while True:
        try:
            return await step()
        except BackendUnavailable as error:
            log.warning("backend.unavailable", error=str(error), next=f"trying again in {delay:.1f} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)
