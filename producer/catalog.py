"""The models clients may ask for: those that workers announced lately, and those the operator configured.

A configured model is one that workers will come for (scale from zero), so its jobs wait however long none is there. One
that was only announced is waited for as long as a worker takes to start again; then new jobs are refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shared.errors import NoWorkerForModel, unknown_model
from shared.ports import ModelInfo, Registry, WorkerInfo

FRESH = 5.0
"""Seconds for which the list is used as it is; an unknown model makes us look again, though not more often than
RECHECK.
"""

RECHECK = 0.5

REMEMBERED = 30.0
"""Seconds after its last sign of life in which a model that the store does not know any more is served on."""

COME_BACK = 30.0
"""Seconds after which a client should ask again for a model without workers."""


@dataclass(frozen=True, slots=True)
class Configured:
    """The operator's models, and other names for them and for announced ones. `patience`: seconds for which an
    announced model is waited for after its last worker was seen.
    """

    models: Sequence[str] = ()
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    patience: float = 600.0


class Catalog:
    def __init__(self, registry: Registry, configured: Configured) -> None:
        self._registry = registry
        self._patience = configured.patience
        self._configured = {
            name: ModelInfo(name, "configured", time.time(), seen_at=0.0, aliases=aliases_of(name, configured.aliases))
            for name in configured.models
        }
        self._known: dict[str, ModelInfo] = {}
        self._names: dict[str, str] = {}
        self._staffed: frozenset[str] = frozenset()
        self._workers: Counter[str] = Counter()
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def models(self) -> Sequence[ModelInfo]:
        await self._refresh(FRESH)
        return sorted(self._known.values(), key=lambda model: model.id)

    async def get(self, name: str) -> ModelInfo:
        """The model of that id or alias. Raises NotFound (`model_not_found`), BackendUnavailable."""
        await self._refresh(FRESH)
        if name not in self._names:
            await self._refresh(RECHECK)
        if name not in self._names:
            raise unknown_model(name)
        return self._known[self._names[name]]

    async def expect_workers(self, model: ModelInfo) -> None:
        """Raises NoWorkerForModel where none is there and none will come."""
        if self._is_abandoned(model):
            await self._refresh(RECHECK)
            model = await self.get(model.id)
        if self._is_abandoned(model):
            raise NoWorkerForModel(f"No worker serves the model '{model.id}' any more.", retry_after=COME_BACK)

    def _is_abandoned(self, model: ModelInfo) -> bool:
        expected = model.id in self._configured or model.id in self._staffed
        return not expected and time.time() - model.seen_at > self._patience

    async def workers(self, model_id: str) -> int:
        """How many are there, with an engine that can generate; at most FRESH seconds old."""
        await self._refresh(FRESH)
        return self._workers[model_id]

    def _seen_lately(self) -> dict[str, ModelInfo]:
        """What a store that has lost its memory hears again with the next heartbeats."""
        since = time.time() - REMEMBERED
        return {name: model for name, model in self._known.items() if model.seen_at > since}

    async def _refresh(self, age: float) -> None:
        if time.monotonic() - self._read_at < age:
            return
        async with self._reading:
            if time.monotonic() - self._read_at >= age:
                models, workers = await asyncio.gather(self._registry.models(), self._registry.workers())
                self._staffed = frozenset(worker.model.id for worker in workers)
                self._workers = Counter(worker.model.id for worker in workers if worker.ready)
                self._adopt(models, workers)
                self._read_at = time.monotonic()

    def _adopt(self, announced: Sequence[ModelInfo], workers: Sequence[WorkerInfo]) -> None:
        """While workers are replaced by others with other aliases, a model has those of both."""
        known = self._configured | self._seen_lately() | {model.id: model for model in announced}
        aliases: defaultdict[str, set[str]] = defaultdict(set)
        for model in (*self._configured.values(), *announced, *(worker.model for worker in workers)):
            aliases[model.id].update(model.aliases)
        for name in aliases.keys() & known.keys():
            known[name] = replace(known[name], aliases=tuple(sorted(aliases[name])))
        self._known, self._names = known, names_of(known.values(), self._workers)


def aliases_of(name: str, aliases: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(alias for alias, model in aliases.items() if model == name))


def names_of(models: Iterable[ModelInfo], workers: Mapping[str, int]) -> dict[str, str]:
    """Every name by which a model may be asked for, with its id. An id is no other model's alias; of two models with
    one alias the one with workers has it, and of those the one that came last.
    """
    models = sorted(models, key=lambda model: (workers.get(model.id, 0) > 0, model.created_at))
    names = {alias: model.id for model in models for alias in model.aliases}
    return names | {model.id: model.id for model in models}
