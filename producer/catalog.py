"""Lists the models that clients may request: those that workers announced recently and those the operator configured.

Jobs for a configured model wait for a worker without limit (scale from zero). Jobs for a model that was only announced
are accepted for `patience` seconds after its last worker was seen, and then refused.
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
"""Seconds for which the list is cached. A request for an unknown model reads it again, at most every RECHECK seconds.
"""

RECHECK = 0.5

REMEMBERED = 30.0
"""Seconds after its last heartbeat for which a model that the store has lost stays in the list."""

COME_BACK = 30.0
"""Retry-After, in seconds, for a model without workers."""


@dataclass(frozen=True, slots=True)
class Configured:
    """The operator's models, and aliases of configured and announced models. `patience`: seconds for which jobs for an
    announced model are accepted after its last worker was seen.
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
        """Returns the model with that id or alias. Raises NotFound (`model_not_found`), BackendUnavailable."""
        await self._refresh(FRESH)
        if name not in self._names:
            await self._refresh(RECHECK)
        if name not in self._names:
            raise unknown_model(name)
        return self._known[self._names[name]]

    async def expect_workers(self, model: ModelInfo) -> None:
        """Raises NoWorkerForModel when the model has no worker and none is expected."""
        if self._is_abandoned(model):
            await self._refresh(RECHECK)
            model = await self.get(model.id)
        if self._is_abandoned(model):
            raise NoWorkerForModel(f"No worker serves the model '{model.id}' any more.", retry_after=COME_BACK)

    def _is_abandoned(self, model: ModelInfo) -> bool:
        expected = model.id in self._configured or model.id in self._staffed
        return not expected and time.time() - model.seen_at > self._patience

    async def workers(self, model_id: str) -> int:
        """Returns the number of workers whose engine is ready; at most FRESH seconds old."""
        await self._refresh(FRESH)
        return self._workers[model_id]

    def _seen_lately(self) -> dict[str, ModelInfo]:
        """Returns the models seen recently: a store that lost its data gets them back with the next heartbeats."""
        since = time.time() - REMEMBERED
        return {name: model for name, model in self._known.items() if model.seen_at > since}

    async def _refresh(self, age: float) -> None:
        if time.monotonic() - self._read_at < age:
            return
        async with self._reading:
            if time.monotonic() - self._read_at >= age:
                models, workers = await asyncio.gather(self._registry.models(), self._registry.workers())
                self._staffed = frozenset(model.id for worker in workers for model in worker.models)
                self._workers = Counter(model.id for worker in workers if worker.ready for model in worker.models)
                self._adopt(models, workers)
                self._read_at = time.monotonic()

    def _adopt(self, announced: Sequence[ModelInfo], workers: Sequence[WorkerInfo]) -> None:
        """Updates the list. During a rollout that changes aliases, a model has the old and the new ones."""
        known = self._configured | self._seen_lately() | {model.id: model for model in announced}
        aliases: defaultdict[str, set[str]] = defaultdict(set)
        served = [model for worker in workers for model in worker.models]
        for model in (*self._configured.values(), *announced, *served):
            aliases[model.id].update(model.aliases)
        for name in aliases.keys() & known.keys():
            known[name] = replace(known[name], aliases=tuple(sorted(aliases[name])))
        self._known, self._names = known, names_of(known.values(), self._workers)


def aliases_of(name: str, aliases: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(alias for alias, model in aliases.items() if model == name))


def names_of(models: Iterable[ModelInfo], workers: Mapping[str, int]) -> dict[str, str]:
    """Returns the model id for every id and alias. An id takes precedence over an alias. An alias of two models belongs
    to the one with workers, then to the newer one.
    """
    models = sorted(models, key=lambda model: (workers.get(model.id, 0) > 0, model.created_at))
    names = {alias: model.id for model in models for alias in model.aliases}
    return names | {model.id: model.id for model in models}
