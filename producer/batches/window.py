"""How many lines of a batch are jobs at a time: as many as the workers can use soon."""

from __future__ import annotations

import time

from shared.ports import Registry

FRESH = 2.0
"""Seconds for which a count of slots is used."""

LEAST, MOST = 32, 2000
"""Lines: so that a worker that comes up finds some, and so that no batch fills a queue."""


class Window:
    """Twice the slots of all workers, or what the settings say: while one line is worked on another one waits."""

    def __init__(self, registry: Registry, fixed: int | None) -> None:
        self._registry = registry
        self._fixed = fixed
        self._slots = 0
        self._counted_at = float("-inf")

    async def size(self) -> int:
        if self._fixed is not None:
            return self._fixed
        if time.monotonic() - self._counted_at > FRESH:
            self._slots = sum(worker.concurrency for worker in await self._registry.workers())
            self._counted_at = time.monotonic()
        return max(LEAST, min(MOST, 2 * self._slots))
