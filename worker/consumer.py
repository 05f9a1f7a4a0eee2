"""Takes deliveries and runs them: a slot first, then a delivery. Stops taking when told to, and drains."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog

from shared.job import QueueName, Tier
from shared.ports import Backend, Consumer, Delivery, Membership, ModelInfo, WorkerInfo
from worker.elsewhere import FailedHere
from worker.engines.base import Engine
from worker.execution import Execution, Workplace
from worker.outcome import Cancelled, Interrupted

log = structlog.get_logger(__name__)

TIERS = (Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX)
FULL_PATIENCE = 1.0
"""Seconds for which a worker with all slots taken keeps deliveries that it cannot start; then others may have them."""

HAND_BACK_SECONDS = 5.0
"""For giving interrupted jobs back once the grace period is over."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Times in seconds. `drain_seconds`: how long held jobs may go on after the worker was told to stop."""

    lease_seconds: float = 30.0
    drain_seconds: float = 60.0
    max_tries: int = 3
    retry_backoff: float = 1.0
    quarantine_after: int = 2


class Worker:
    """One engine, one consumer. `run` returns when `stop` is set and everything held is settled or handed back."""

    def __init__(self, backend: Backend, engine: Engine, options: WorkerOptions) -> None:
        self.id = f"worker-{os.urandom(6).hex()}"
        self._backend = backend
        self._engine = engine
        self._options = options
        self.ready = asyncio.Event()
        self._slots = asyncio.Semaphore(engine.concurrency)
        self._running: dict[str, Execution] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._holding: set[str] = set()
        self._place = Workplace(
            *(self.id, backend, engine, options.lease_seconds, options.max_tries, options.retry_backoff),
            quarantine_after=options.quarantine_after,
            failed_here=FailedHere(backend.registry, self.id, engine.card.id),
        )

    async def run(self, stop: asyncio.Event) -> None:
        model = self._engine.card.id
        queues = [QueueName(model, tier) for tier in TIERS]
        async with (
            self._backend.registry.join(self._info()) as membership,
            self._backend.queue.consume(queues, self._engine.concurrency) as consumer,
            asyncio.TaskGroup() as group,
        ):
            self.ready.set()
            log.info("worker.ready", worker=self.id, model=model, concurrency=self._engine.concurrency)
            listening = group.create_task(self._listen(membership.cancels), name="worker-cancels")
            watching = group.create_task(self._watch_engine(membership, consumer), name="worker-engine")
            taking = group.create_task(self._take(consumer, group), name="worker-take")
            await stop.wait()
            taking.cancel()
            watching.cancel()
            await consumer.pause()
            await self._drain()
            listening.cancel()

    def _info(self) -> WorkerInfo:
        card, now = self._engine.card, time.time()
        model = ModelInfo(
            card.id,
            card.engine,
            created_at=now,
            seen_at=now,
            context_length=card.context_length,
            description=card.description,
            capabilities=card.capabilities,
        )
        return WorkerInfo(self.id, model, self._engine.concurrency, started_at=now)

    async def _take(self, consumer: Consumer, group: asyncio.TaskGroup) -> None:
        while True:
            await self._take_slot(consumer)
            await self._engine.wait_healthy()
            delivery = await consumer.next()
            if await self._adopted(delivery):
                self._slots.release()
            else:
                self._start(delivery, group)

    async def _take_slot(self, consumer: Consumer) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(FULL_PATIENCE):
                await self._slots.acquire()
        except TimeoutError:
            await self._hold("full", consumer)
            await self._slots.acquire()
            await self._go_on("full", consumer)

    async def _hold(self, reason: str, consumer: Consumer) -> None:
        """Deliveries that nobody here can start soon go back to those who can."""
        self._holding.add(reason)
        await consumer.pause()

    async def _go_on(self, reason: str, consumer: Consumer) -> None:
        self._holding.discard(reason)
        if not self._holding:
            await consumer.resume()

    async def _adopted(self, delivery: Delivery) -> bool:
        """Whether the delivery is one more of a job that runs here already."""
        execution = self._running.get(delivery.message.job.id)
        if execution is not None:
            await execution.adopt(delivery)
        return execution is not None

    def _start(self, delivery: Delivery, group: asyncio.TaskGroup) -> None:
        job_id = delivery.message.job.id
        execution = self._running[job_id] = Execution(self._place, delivery)
        self._idle.clear()
        task = group.create_task(self._run(execution, job_id), name=f"execution {job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, execution: Execution, job_id: str) -> None:
        """A job that breaks its execution takes nobody else's with it."""
        try:
            await execution.run()
        except Exception:
            log.exception("execution.crashed", next="the job is tried again when its lease has run out")
            await execution.postpone()
        finally:
            # In the turn in which the delivery was settled: another one that comes now is not adopted any more.
            del self._running[job_id]
            self._slots.release()
            if not self._running:
                self._idle.set()

    async def _listen(self, cancels: AsyncIterator[str]) -> None:
        async for job_id in cancels:
            if (execution := self._running.get(job_id)) is not None:
                execution.stop(Cancelled())

    async def _watch_engine(self, membership: Membership, consumer: Consumer) -> None:
        """A worker whose engine cannot generate is not ready; running attempts hear from the engine itself."""
        while True:
            reason = await self._engine.wait_unhealthy()
            log.warning("engine.unhealthy", reason=reason, next="not ready: taking no jobs until it is back")
            membership.announce(ready=False)
            await self._hold("unhealthy", consumer)
            await self._engine.wait_healthy()
            log.info("engine.healthy", next="ready again")
            membership.announce(ready=True)
            await self._go_on("unhealthy", consumer)

    async def _drain(self) -> None:
        """Finish what is held within the grace period, then hand the rest back at once for others to continue.

        What cannot even be handed back (broker or store away) is let go: closing the consumer returns its deliveries.
        """
        log.info("worker.draining", held=len(self._running), grace=self._options.drain_seconds)
        if await self._idle_within(self._options.drain_seconds):
            return
        for execution in self._running.values():
            execution.stop(Interrupted())
        if not await self._idle_within(HAND_BACK_SECONDS):
            log.warning("worker.drain_failed", held=len(self._running), next="the broker delivers them again")
            for task in self._tasks:
                task.cancel()

    async def _idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
