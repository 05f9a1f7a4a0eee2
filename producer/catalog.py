"""The models clients may ask for: those that workers announced lately, and those the operator configured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from shared.errors import NotFound
from shared.ports import ModelInfo, Registry

FRESH = 5.0
"""Seconds for which the list is used as it is; an unknown model makes us look again, though not more often than
RECHECK.
"""

RECHECK = 0.5

REMEMBERED = 30.0
"""Seconds after its last sign of life in which a model that the store does not know any more is served on."""


class Catalog:
    def __init__(self, registry: Registry, configured: Sequence[str]) -> None:
        self._registry = registry
        self._configured = {name: ModelInfo(name, "configured", time.time(), 0.0) for name in configured}
        self._known: dict[str, ModelInfo] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def models(self) -> Sequence[ModelInfo]:
        await self._refresh(FRESH)
        return sorted(self._known.values(), key=lambda model: model.id)

    async def get(self, model_id: str) -> ModelInfo:
        """Raises NotFound (`model_not_found`), BackendUnavailable."""
        await self._refresh(FRESH)
        if model_id not in self._known:
            await self._refresh(RECHECK)
        if model_id not in self._known:
            raise NotFound(f"The model '{model_id}' does not exist.", param="model", code="model_not_found")
        return self._known[model_id]

    def _seen_lately(self) -> dict[str, ModelInfo]:
        """What a store that has lost its memory hears again with the next heartbeats."""
        since = time.time() - REMEMBERED
        return {name: model for name, model in self._known.items() if model.seen_at > since}

    async def _refresh(self, age: float) -> None:
        if time.monotonic() - self._read_at < age:
            return
        async with self._reading:
            if time.monotonic() - self._read_at >= age:
                announced = {model.id: model for model in await self._registry.models()}
                self._known = {**self._configured, **self._seen_lately(), **announced}
                self._read_at = time.monotonic()
