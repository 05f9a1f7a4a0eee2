"""How many lines of a batch are jobs at a time: of each model as many as its workers can use soon."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from producer.catalog import Catalog
from shared.ports import Registry

FRESH = 2.0
"""Seconds for which a count of slots is used."""

LEAST, MOST = 32, 2000
"""Lines of a model: so that a worker that comes up finds some, and so that no batch fills a queue."""

MOST_OF_ALL = 2 * MOST
"""Lines of all models: what is open stands in the batch's document."""


class LineLimit:
    """Twice the slots of a model's workers, or what the settings say: while one line is worked on another one waits."""

    def __init__(self, registry: Registry, catalog: Catalog, fixed: int | None) -> None:
        self._registry = registry
        self._catalog = catalog
        self._fixed = fixed
        self._slots: Mapping[str, int] = {}
        self._counted_at = float("-inf")

    async def count(self) -> None:
        """Look how many slots there are, now and then."""
        if self._fixed is not None or time.monotonic() - self._counted_at <= FRESH:
            return
        slots: Counter[str] = Counter()
        for worker in await self._registry.workers():
            slots[worker.model.id] += worker.concurrency
        models = await self._catalog.models()
        self._slots = {name: slots[model.id] for model in models for name in (*model.aliases, model.id)}
        self._counted_at = time.monotonic()

    def size(self, model: str) -> int:
        """For the model of that id or alias, by the last count."""
        if self._fixed is not None:
            return self._fixed
        return max(LEAST, min(MOST, 2 * self._slots.get(model, 0)))
