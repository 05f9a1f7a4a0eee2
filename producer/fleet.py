"""Reports queues and workers to operators and autoscalers. Reads them on request; nothing polls. Requests of the same
second share one read, so that many open consoles cost the store as much as one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from producer.admission.drain_rate import DrainRate
from producer.catalog import Catalog
from shared.job import QueueName, Tier
from shared.ports import Backend, WorkerInfo

ALL_TENANTS = ""
"""Reads the backlog of all tenants."""


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue. `tokens`: estimated tokens of the waiting jobs; `tenants`: tenants with waiting jobs. `oldest_wait`
    and `backlog_seconds` in seconds; `rate`: jobs started per second, 0 without a ready worker. None: not known yet;
    `backlog_seconds` is also None for a backlog without a ready worker.
    """

    queue: QueueName
    waiting: int
    running: int
    tokens: int
    tenants: int
    oldest_wait: float
    rate: float | None
    backlog_seconds: float | None


T = TypeVar("T")

SHARED_FOR = 1.0
"""Seconds for which the readers of a `SharedRead` get the same value."""


class SharedRead(Generic[T]):
    """A value that is read at most once a second, however many ask for it. A failed read is not kept."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._lock = asyncio.Lock()
        self._kept: tuple[float, T] | None = None

    async def get(self) -> T:
        async with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] >= SHARED_FOR:
                self._kept = time.monotonic(), await self._read()
            return self._kept[1]


class Fleet:
    def __init__(self, backend: Backend, catalog: Catalog) -> None:
        self._backend = backend
        self._catalog = catalog
        self._rates = DrainRate()
        self._workers = SharedRead(self._read_workers)
        self._queues = SharedRead(self._read_queues)

    async def workers(self) -> Sequence[WorkerInfo]:
        """Returns the connected workers, at most a second old. Raises BackendUnavailable."""
        return await self._workers.get()

    async def queues(self) -> Sequence[QueueView]:
        """Returns the queues of all models in the catalog, by model and tier, at most a second old. Raises
        BackendUnavailable.
        """
        return await self._queues.get()

    async def _read_workers(self) -> Sequence[WorkerInfo]:
        return sorted(await self._backend.registry.workers(), key=lambda worker: (worker.model.id, worker.started_at))

    async def _read_queues(self) -> Sequence[QueueView]:
        models, workers = await asyncio.gather(self._catalog.models(), self._backend.registry.workers())
        staffed = {model.id for worker in workers if worker.ready for model in worker.models}
        names = [QueueName(model.id, tier) for model in models for tier in Tier]
        return await asyncio.gather(*(self._view_of(name, staffed=name.model in staffed) for name in names))

    async def _view_of(self, queue: QueueName, *, staffed: bool) -> QueueView:
        scheduler = self._backend.scheduler
        backlog, state = await asyncio.gather(scheduler.backlog(queue, ALL_TENANTS), scheduler.queue_state(queue))
        self._rates.observe(str(queue), backlog.started, backlog.jobs)
        first = self._rates.estimate(str(queue), 0)
        left = self._rates.estimate(str(queue), backlog.jobs - 1) if staffed else None
        return QueueView(
            queue=queue,
            waiting=backlog.jobs,
            running=state.running,
            tokens=backlog.tokens,
            tenants=backlog.tenants,
            oldest_wait=max(0.0, time.time() - state.oldest_at) if state.oldest_at and backlog.jobs else 0.0,
            rate=0.0 if not staffed else 1 / first if first else None,
            backlog_seconds=left if backlog.jobs else 0.0,
        )
