"""Forecasts the ends of open batches, and says at the door whether a completion window can be kept.

Every replica reads the open batches and the counts of their queues about every two seconds. The measured rate of a
model (throughput.py), the tokens that are left of each batch, and the other waiting jobs give the end of each batch
(windows.py). Two replicas that accept batches in the same moment do not know of each other's; within a replica the
batches that were accepted since the last read are added.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from producer.batches.document import Batch
from producer.batches.repository import BatchRepository
from producer.batches.throughput import Confidence, Throughput
from producer.batches.windows import Work, can_be_kept, finishes, shortest_window
from producer.catalog import Catalog
from shared.errors import IgniteError, RateLimited
from shared.fairness import UNWINDOWED
from shared.job import QueueName, Tier
from shared.ports import FairScheduler

log = structlog.get_logger(__name__)

FRESH = 1.0
"""Seconds for which the door uses the last read."""

READ_EVERY, READ_SHARE = 2.0, 0.05
"""Seconds between two reads in the background, and the most of the time that they may take."""

MOST_READ = 1000
"""Open batches, the oldest first. Later ones are not counted."""

FORECAST_STATES = ("validating", "in_progress")
ALL_TENANTS, OTHER_JOBS = "", "jobs of no batch"
SHORTEST_RETRY, LONGEST_RETRY = 1.0, 3600.0
"""Bounds of the Retry-After of a refused batch, in seconds."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """`expected_at`: Unix seconds, infinite where nothing is started at present, None without a measurement."""

    expected_at: float | None = None
    confidence: Confidence = "none"

    @property
    def shown_at(self) -> float | None:
        return None if self.expected_at is None or math.isinf(self.expected_at) else self.expected_at


UNKNOWN = Forecast()


@dataclass(slots=True)
class Load:
    """The open work of one model at `at` (Unix seconds). `rate` in tokens per second, None if unknown."""

    at: float
    rate: float | None = None
    confidence: Confidence = "none"
    works: list[Work] = field(default_factory=list[Work])


class BatchForecasts:
    def __init__(self, scheduler: FairScheduler, catalog: Catalog, batches: BatchRepository) -> None:
        self._scheduler = scheduler
        self._catalog = catalog
        self._batches = batches
        self.throughput = Throughput()
        self.escalated: frozenset[str] = frozenset()
        """The open batches that run lines in the tier default, as of the last read."""
        self._names: Mapping[str, str] = {}
        self._loads: dict[str, Load] = {}
        self._accepted: dict[str, Batch] = {}
        self._forecasts: dict[str, Forecast] = {}
        self._read_at = -math.inf
        self._took = 0.0
        self._reading = asyncio.Lock()
        self._accepting = asyncio.Lock()

    async def run(self) -> None:
        """Reads for ever."""
        while True:
            try:
                await self.refresh(0.0)
            except IgniteError as error:
                log.warning("batches.not_forecast", error=str(error), next="reading again")
            await asyncio.sleep(max(READ_EVERY, self._took / READ_SHARE))

    async def admitted(self, batch: Batch, *, accept_late: bool) -> Batch:
        """Returns a new batch with its forecast, and counts it for the next one from now on. Raises RateLimited if its
        window cannot be kept and `accept_late` is false; BackendUnavailable.
        """
        async with self._accepting:
            await self._prepare(batch)
            if (refused := self._refusal(batch)) is not None and not accept_late:
                raise refused
            found = self._of(batch)
            batch = batch.with_(
                expected_finish_at=found.shown_at, expected_finish_confidence=found.confidence, late=refused is not None
            )
            self._accepted[batch.id] = batch
            for model, work in self._works_of(batch, time.time()):
                if (load := self._loads.get(model)) is not None:
                    load.works.append(work)
            return batch

    async def refresh(self, age: float = FRESH) -> None:
        """Reads open batches and queues, unless the last read is younger. Raises BackendUnavailable."""
        async with self._reading:
            began = time.monotonic()
            if began - self._read_at < max(age, self._took):
                return
            known = set(self._accepted)
            found = await self._open_batches()
            self._accepted = {each: batch for each, batch in self._accepted.items() if each not in known}
            counted = self._accepted | {batch.id: batch for batch in found}
            if counted or self._loads:
                await self._read_names()
                await self._read_queues([*counted.values()])
            self._forecasts = self._forecasts_of(found)
            self.escalated = frozenset(batch.id for batch in found if batch.tier_in_use == "default")
            self._read_at = time.monotonic()
            self._took = self._read_at - began

    def expected(self, batch_id: str) -> Forecast:
        """Returns the batch's forecast as of the last read."""
        return self._forecasts.get(batch_id, UNKNOWN)

    def updated(self, batch: Batch) -> Batch:
        """Returns the batch with its last forecast: the stored one is as old as its last answer."""
        if batch.status not in FORECAST_STATES or (found := self.expected(batch.id)) is UNKNOWN:
            return batch
        return batch.with_(expected_finish_at=found.shown_at, expected_finish_confidence=found.confidence)

    # ── parts ──

    async def _prepare(self, batch: Batch) -> None:
        """Makes the answers of `_of` and `_refusal` current for a new batch. Raises BackendUnavailable."""
        await self.refresh()
        await self._read_names()
        named = {self._names[name] for name in batch.tokens if name in self._names}
        for model in named - self._loads.keys():
            load = Load(time.time())
            await self._measure(model, load, queued=0)
            self._loads.setdefault(model, load)

    def _of(self, batch: Batch) -> Forecast:
        """Returns the forecast of a batch, which may be a new one, as of the last read: of the latest of its models."""
        now, found = time.time(), list[Forecast]()
        for model, work in self._works_of(batch, now):
            load = self._loads.get(model)
            if load is None or load.rate is None:
                return UNKNOWN
            seconds = finishes([*others_of(load, batch), work], load.rate)[batch.id]
            found.append(Forecast(now + seconds, load.confidence))
        return latest(found)

    def _refusal(self, batch: Batch) -> RateLimited | None:
        """Returns the refusal of a new batch whose window cannot be kept, as far as is known for sure."""
        now, shortest = time.time(), 0.0
        window, out_of_reach = batch.expires_at - now, False
        for model, work in self._works_of(batch, now):
            load = self._loads.get(model)
            if load is None or load.rate is None or load.confidence != "high":
                return None
            others = others_of(load, batch)
            if not can_be_kept(work, others, load.rate):
                out_of_reach = True
            shortest = max(shortest, shortest_window(work, others, load.rate))
        return window_out_of_reach(batch.completion_window, shortest, window) if out_of_reach else None

    def _forecasts_of(self, batches: Sequence[Batch]) -> dict[str, Forecast]:
        """Returns the forecasts of open batches, of all in one pass for each model."""
        measured = {model: (load, load.rate) for model, load in self._loads.items() if load.rate is not None}
        ends = {model: finishes(load.works, rate) for model, (load, rate) in measured.items()}
        found = dict[str, Forecast]()
        for batch in batches:
            models = {self._names.get(name, name) for name in batch.tokens}
            if models <= ends.keys():
                found[batch.id] = latest(
                    [
                        Forecast(load.at + ends[model][batch.id], load.confidence)
                        for model, (load, _) in measured.items()
                        if model in models
                    ]
                )
        return found

    async def _open_batches(self) -> Sequence[Batch]:
        opened = await self._batches.opened(MOST_READ)
        found = await asyncio.gather(*(self._batches.find(tenant, batch_id) for tenant, batch_id in opened))
        return [each[0] for each in found if each is not None and each[0].status in FORECAST_STATES]

    async def _read_names(self) -> None:
        models = await self._catalog.models()
        self._names = {name: model.id for model in models for name in (*model.aliases, model.id)}

    async def _read_queues(self, batches: Sequence[Batch]) -> None:
        """Reads the queues of the batches' models, and of the models that were asked for before."""
        now, loads = time.time(), dict[str, Load]()
        queued: Counter[str] = Counter()
        for batch in batches:
            works = self._works_of(batch, now)
            for model, work in works:
                loads.setdefault(model, Load(now)).works.append(work)
                queued[model] += round(open_tokens(batch) / len(works))
        for model in (self._loads.keys() - loads.keys()) & set(self._names.values()):
            loads[model] = Load(now)
        await asyncio.gather(*(self._measure(model, load, queued[model]) for model, load in loads.items()))
        self._loads = loads

    async def _measure(self, model: str, load: Load, queued: int) -> None:
        queue = QueueName(model, Tier.FLEX)
        backlog = await self._scheduler.backlog(queue, ALL_TENANTS)
        self.throughput.observe(str(queue), backlog)
        if (others := backlog.tokens - queued) > 0:
            load.works.append(Work(OTHER_JOBS, OTHER_JOBS, others, UNWINDOWED))
        if await self._catalog.workers(model):
            load.rate, load.confidence = self.throughput.rate(str(queue)), self.throughput.confidence(str(queue))

    def _works_of(self, batch: Batch, now: float) -> list[tuple[str, Work]]:
        """Returns the batch's work by model id."""
        left = batch.share_left
        return [
            (
                self._names.get(name, name),
                Work(batch.id, batch.tenant, tokens * left, batch.expires_at - now, batch.weight),
            )
            for name, tokens in batch.tokens.items()
        ]


def latest(found: Sequence[Forecast]) -> Forecast:
    """Returns the forecast of the model that ends last, as sure as the least sure one."""
    if not found:
        return UNKNOWN
    sure = all(each.confidence == "high" for each in found)
    return Forecast(max(each.expected_at or 0.0 for each in found), "high" if sure else "low")


def others_of(load: Load, batch: Batch) -> list[Work]:
    """Returns the model's work without this batch. Another tenant's work is one piece: only its sum matters here."""
    passed = time.time() - load.at
    own, others = list[Work](), dict[str, Work]()
    for each in load.works:
        if each.id == batch.id:
            continue
        if each.tenant == batch.tenant:
            own.append(replace(each, window_end=each.window_end - passed))
            continue
        sum_before = others.get(each.tenant, replace(each, tokens=0.0))
        others[each.tenant] = replace(sum_before, tokens=sum_before.tokens + each.tokens)
    return [*own, *others.values()]


def open_tokens(batch: Batch) -> float:
    """Estimates the tokens of the batch's lines that are jobs now: at most all, until the first answer is saved."""
    tokens = sum(batch.tokens.values())
    return tokens * len(batch.open) / batch.total if batch.open and batch.total else tokens * batch.share_left


def window_out_of_reach(asked: str, shortest: float, window: float) -> RateLimited:
    possible = f"The shortest window that can be kept is about {shortest:.0f}s" if math.isfinite(shortest) else ""
    possible = possible or "No window can be kept at present"
    return RateLimited(
        f"The completion window {asked} cannot be kept at the measured rate, with the work that was accepted before. "
        f"{possible}. Ask for a longer one, retry later, or set 'accept_late' to run the batch nevertheless.",
        param="completion_window",
        code="window_out_of_reach",
        retry_after=min(LONGEST_RETRY, max(SHORTEST_RETRY, shortest - window)),
    )
