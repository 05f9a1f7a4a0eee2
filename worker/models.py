"""The models that an engine serves: how they are announced, their queues, and whose job is next. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from shared.job import QueueName, Tier
from shared.ports import ModelInfo
from worker.engines.base import ModelCard
from worker.slots import TIERS


class ModelQueues:
    """The slots decide on the tier; among the models that wait in it, the one whose last job started first is next. So
    a model's backlog delays another model's job by one job of each model at most.
    """

    def __init__(self) -> None:
        self._by_tier: dict[Tier, list[QueueName]] = {tier: [] for tier in TIERS}
        self._started: dict[str, int] = {}
        self._starts = 0

    @property
    def models(self) -> Sequence[str]:
        """Every model that was served since the start: a queue that was consumed once is paused, not left."""
        return [*self._started]

    def add(self, model: str) -> None:
        """A new model is next in each of its tiers."""
        self._started[model] = 0
        for tier, queues in self._by_tier.items():
            queues.append(QueueName(model, tier))

    def all(self) -> list[QueueName]:
        """By tier, higher tiers first."""
        return [queue for queues in self._by_tier.values() for queue in queues]

    def of_tier(self, tier: Tier) -> Sequence[QueueName]:
        return self._by_tier[tier]

    def next_of(self, tier: Tier, available: Iterable[QueueName]) -> QueueName:
        """Returns the queue of `available` to take from; one of them is of the tier."""
        return min((queue for queue in available if queue.tier is tier), key=lambda queue: self._started[queue.model])

    def started(self, model: str) -> None:
        self._starts += 1
        self._started[model] = self._starts


def by_tier(available: Mapping[QueueName, int]) -> Mapping[Tier, int]:
    """Returns how many deliveries of each tier are at hand."""
    counts: dict[Tier, int] = {}
    for queue, count in available.items():
        counts[queue.tier] = counts.get(queue.tier, 0) + count
    return counts


def of_models(models: Iterable[str]) -> list[QueueName]:
    return [QueueName(model, tier) for tier in TIERS for model in models]


def announced(
    cards: Sequence[ModelCard], main: str, aliases: Iterable[str], modalities: tuple[str, ...]
) -> list[ModelInfo]:
    """Returns the engine's models as the worker announces them. `main`: the id of the main model, to which `modalities`
    and the `aliases` that name no model belong.
    """
    now = time.time()
    pairs = [alias.partition("=") for alias in aliases]
    names = {alias.strip(): model.strip() or main for alias, _, model in pairs}
    return [
        ModelInfo(
            card.id,
            card.engine,
            created_at=now,
            seen_at=now,
            context_length=card.context_length,
            description=card.description,
            capabilities=card.capabilities,
            modalities=(card.id == main and modalities) or card.modalities,
            aliases=(*(alias for alias, model in names.items() if model == card.id), *card.aliases),
            parent=card.parent,
        )
        for card in cards
    ]
