"""Limits how many lines of a batch are jobs at the same time, per model, by the slots of the model's workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from producer.catalog import Catalog
from shared.ports import Registry

FRESH = 2.0
"""Seconds for which the count of slots is cached."""

LEAST, MOST = 32, 2000
"""Bounds per model: enough lines for a newly started worker, and too few to fill the queue."""

MOST_OF_ALL = 2 * MOST
"""Limit over all models: the batch's document contains every open line."""


class LineLimit:
    """Allows twice the slots of a model's workers, so that a line waits for each slot; `fixed` overrides that."""

    def __init__(self, registry: Registry, catalog: Catalog, fixed: int | None) -> None:
        self._registry = registry
        self._catalog = catalog
        self._fixed = fixed
        self._slots: Mapping[str, int] = {}
        self._counted_at = float("-inf")

    async def count(self) -> None:
        """Counts the workers' slots, if the last count is older than FRESH seconds."""
        if time.monotonic() - self._counted_at <= FRESH:
            return
        slots: Counter[str] = Counter()
        for worker in await self._registry.workers():
            for model in worker.models:
                slots[model.id] += worker.concurrency
        models = await self._catalog.models()
        self._slots = {name: slots[model.id] for model in models for name in (*model.aliases, model.id)}
        self._counted_at = time.monotonic()

    def slots(self, model: str) -> int:
        """Returns the slots of that model's workers, from the last count."""
        return self._slots.get(model, 0)

    def size(self, model: str) -> int:
        """Returns the limit for the model with that id or alias, from the last count."""
        if self._fixed is not None:
            return self._fixed
        return max(LEAST, min(MOST, 2 * self._slots.get(model, 0)))
