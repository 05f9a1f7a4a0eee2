"""Takes a slot, then a delivery, and runs it. On a stop signal takes no more deliveries and drains.

`Slots` decides which tier gets the next slot. A full worker still watches what waits: for a job of a higher tier it
preempts the youngest flex job that can go on later, which continues from its log when there is room again.

Where several tenants wait, the store may put another job first, which then runs under the delivery: see
`FairScheduler.next_job`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import structlog

from shared.errors import DeadlineExceeded
from shared.job import Job, JobStatus, QueueName, Tier
from shared.ports import Backend, Delivery, Membership, WorkerInfo
from shared.retry import retry_while_unavailable
from worker.cache_salt import CacheSalt
from worker.context import WorkerContext
from worker.engines.base import Engine
from worker.execution import Execution
from worker.failed_attempts import FailedAttempts
from worker.models import ModelQueues, announced, by_tier, of_models
from worker.outcome import Cancelled, Interrupted, ended_early
from worker.pauses import Pauses
from worker.piggybacked import PiggybackedDelivery, expiring
from worker.slots import TIERS, Slots
from worker.throttle import Throttle

log = structlog.get_logger(__name__)

REQUEUE_SECONDS = 5.0
"""Time for requeueing interrupted jobs once the grace period is over."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Times are in seconds. `drain_seconds`: how long running jobs may go on after the stop signal.

    `reserved_slots`: the share of the slots that flex jobs never take. `flex_patience`: how long flex jobs are passed
    over for higher tiers before one starts. `aliases`: other names of the main model, or `alias=id` for another one.
    `modalities`: what the main model takes, in place of what the engine says. `version`: Ignite's. `log_limit`: the
    most bytes of a job's answer. `default_max_tokens`: the most tokens of an answer whose request sets no limit, where
    the model's context length is unknown; 0: no limit.
    """

    lease_seconds: float = 30.0
    drain_seconds: float = 60.0
    max_tries: int = 3
    retry_backoff: float = 1.0
    quarantine_after: int = 2
    reserved_slots: float = 0.125
    flex_patience: float = 60.0
    aliases: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    default_max_tokens: int = 0
    version: str = ""
    log_limit: int = 64 * 1024 * 1024


class Worker:
    """One engine and one consumer. `run` returns when `stop` is set and every job has ended or is requeued."""

    def __init__(
        self, backend: Backend, engine: Engine, options: WorkerOptions, cache_salt: CacheSalt | None = None
    ) -> None:
        self.id = f"worker-{os.urandom(6).hex()}"
        self._backend = backend
        self._engine = engine
        self._options = options
        self.ready = asyncio.Event()
        self._queues = ModelQueues()
        self._main = engine.card.id
        self._gone: set[str] = set()
        self._is_healthy = True
        self._slots = Slots(engine.concurrency, reserved=options.reserved_slots, patience=options.flex_patience)
        self._running: dict[str, Execution] = {}
        self._flex: dict[str, Execution] = {}
        self._leaving: set[str] = set()
        self._available: Mapping[QueueName, int] = {}
        self._waiting: Mapping[Tier, int] = {}
        self._interrupting = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._throttle = Throttle(engine.concurrency, self._limit_changed)
        self._context = WorkerContext(
            self.id,
            backend=backend,
            engine=engine,
            lease_seconds=options.lease_seconds,
            max_tries=options.max_tries,
            retry_backoff=options.retry_backoff,
            quarantine_after=options.quarantine_after,
            failed_attempts=FailedAttempts(backend.registry, self.id),
            log_limit=options.log_limit,
            default_max_tokens=options.default_max_tokens,
            cache_salt=cache_salt,
            throttle=self._throttle,
        )

    async def run(self, stop: asyncio.Event) -> None:
        info = self._info()
        for model in info.models:
            self._queues.add(model.id)
        prefetch = self._prefetch(self._queues.models)
        async with (
            self._backend.registry.join(info, lambda: len(self._running), lambda: self._engine.state) as membership,
            self._backend.queue.consume([*prefetch], [*prefetch.values()]) as consumer,
            asyncio.TaskGroup() as group,
        ):
            self._consumer, self._group, self._pauses = consumer, group, Pauses(consumer, group)
            self.ready.set()
            log.info("worker.ready", worker=self.id, model=info.model.id, concurrency=self._engine.concurrency)
            listening = group.create_task(self._listen(membership.cancels), name="worker-cancels")
            watching = group.create_task(self._watch_engine(membership), name="worker-engine")
            listing = group.create_task(self._watch_models(membership), name="worker-models")
            taking = group.create_task(self._take(), name="worker-take")
            await stop.wait()
            taking.cancel()
            watching.cancel()
            listing.cancel()
            self._pauses.close()
            await consumer.pause()
            await self._drain()
            listening.cancel()

    def _info(self) -> WorkerInfo:
        models = announced(self._engine.cards, self._main, self._options.aliases, self._options.modalities)
        return WorkerInfo(
            self.id,
            models[0],
            self._engine.concurrency,
            started_at=time.time(),
            version=self._options.version,
            further_models=tuple(models[1:]),
        )

    def _prefetch(self, models: Iterable[str]) -> dict[QueueName, int]:
        return {queue: self._slots.most_of(queue.tier) for queue in of_models(models)}

    # ── take ──

    async def _take(self) -> None:
        while True:
            await self._engine.wait_healthy()
            delivery = await self._consumer.next(self._choose)
            if await self._adopted(delivery):
                continue
            job = delivery.message.job
            out_of_order = self._slots.take(job.tier, self._waiting)
            self._queues.started(job.model)
            contended = self._available.get(job.queue, 0) > 1 or not self._slots.admits(job.tier)
            self._idle.clear()
            self._slots_changed()
            running = self._run(delivery, contended=contended, out_of_order=out_of_order)
            task = self._group.create_task(running, name=f"execution {job.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _choose(self, available: Mapping[QueueName, int]) -> QueueName | None:
        """Returns the queue that gets the next free slot. Where none is free, preempts flex jobs for higher tiers."""
        self._available, self._waiting = available, by_tier(available)
        tier = self._slots.choose(self._waiting)
        if tier is None:
            self._preempt(self._slots.lacking(self._waiting, len(self._leaving)))
            self._watch_fullness()
        return None if tier is None else self._queues.next_of(tier, available)

    def _preempt(self, slots: int) -> None:
        """Preempts the youngest `slots` flex jobs that are preemptible."""
        candidates = reversed([*self._flex.items()]) if slots else ()
        for job_id, execution in candidates:
            if slots and execution.preempt():
                log.info("job.put_back", job=job_id, next="it continues when higher tiers leave a slot")
                self._leaving.add(job_id)
                slots -= 1

    def _watch_fullness(self) -> None:
        for tier in TIERS:
            is_full = self._is_full(tier)
            for queue in self._queues.of_tier(tier):
                self._pauses.set_full(queue, is_full)

    def _is_full(self, tier: Tier) -> bool:
        """Whether no job of the tier can start here soon."""
        if tier is Tier.FLEX or self._slots.admits(tier):
            return not self._slots.admits(tier)
        return not self._leaving and not any(execution.preemptible for execution in self._flex.values())

    async def _adopted(self, delivery: Delivery) -> bool:
        """Hands a delivery of a job that runs here to its execution. Returns whether it did."""
        execution = self._running.get(delivery.message.job.id)
        if execution is not None:
            await execution.adopt(delivery)
        return execution is not None

    # ── run ──

    async def _run(self, delivery: Delivery, *, contended: bool, out_of_order: bool) -> None:
        """Runs the delivery's job, or the one that fairness puts first. Without contention the store is not asked."""
        job = delivery.message.job
        try:
            if contended or delivery.redelivered or delivery.served:
                delivery = await self._fair_choice(delivery)
            async with expiring(job, lambda: self._expire(job)) if delivery.message.job is not job else nullcontext():
                if not await self._adopted(delivery):
                    await self._execute(delivery, preemptible=job.tier is Tier.FLEX and not out_of_order)
        finally:
            self._slots.free(job.tier)
            self._slots_changed()
            if not self._slots.busy:
                self._idle.set()

    async def _fair_choice(self, delivery: Delivery) -> Delivery:
        job, scheduler = delivery.message.job, self._backend.scheduler
        try:
            other = await retry_while_unavailable(
                lambda: scheduler.next_job(job, served=delivery.served, fresh=delivery.redelivered)
            )
        except Exception:
            log.exception("fair_queue.crashed", job=job.id, next="jobs run in the order of arrival")
            return delivery
        return delivery if other is None else PiggybackedDelivery(delivery, other)

    async def _execute(self, delivery: Delivery, *, preemptible: bool) -> None:
        """Runs the job. A crash of its execution does not end other executions."""
        job_id = delivery.message.job.id
        execution = self._running[job_id] = Execution(self._context, delivery, self._consumer.choose_again)
        if preemptible:
            self._flex[job_id] = execution
        if self._interrupting:
            execution.stop(Interrupted())
        try:
            await execution.run()
        except Exception:
            log.exception("execution.crashed", next="the job is tried again")
            await execution.retry_after_crash()
        finally:
            # In the same step of the event loop as the ack: a delivery that comes now is not adopted any more.
            del self._running[job_id]
            self._flex.pop(job_id, None)
            self._leaving.discard(job_id)

    async def _expire(self, job: Job) -> None:
        late = DeadlineExceeded("The job's deadline passed while it was queued.", code="deadline_exceeded_in_queue")
        ending = ended_early(JobStatus.EXPIRED, late)
        await retry_while_unavailable(lambda: self._backend.store.end_unclaimed(job.id, ending))

    def _limit_changed(self) -> None:
        """Adopts the engine's current limit: jobs beyond it stay in the queue."""
        self._slots.limit = self._throttle.limit
        self._slots_changed()

    def _slots_changed(self) -> None:
        self._watch_fullness()
        self._consumer.choose_again()

    # ── watch ──

    async def _listen(self, cancels: AsyncIterator[str]) -> None:
        async for job_id in cancels:
            if (execution := self._running.get(job_id)) is not None:
                execution.stop(Cancelled())

    async def _watch_engine(self, membership: Membership) -> None:
        """Announces whether the engine can generate, and pauses the queues while it cannot."""
        while True:
            reason = await self._engine.wait_unhealthy()
            log.warning("engine.unhealthy", reason=reason, next="not ready: takes no jobs until the engine answers")
            self._is_healthy = False
            membership.announce(ready=False)
            await self._pauses.pause("unhealthy", self._queues.all())
            await self._engine.wait_healthy()
            log.info("engine.healthy", next="ready again")
            self._is_healthy = True
            membership.announce(ready=True)
            self._pauses.resume("unhealthy", self._queues.all())

    async def _watch_models(self, membership: Membership) -> None:
        """Takes jobs of models that have appeared on the engine, and no more of those that are gone from it."""
        while True:
            await self._engine.cards_changed()
            models = self._info().models
            served = {model.id for model in models}
            known = {*self._queues.models}
            if appeared := (served - known) | (served & self._gone):
                log.info("model.appeared", models=sorted(appeared))
            if vanished := known - self._gone - served:
                log.info("model.vanished", models=sorted(vanished), next="its jobs wait for a worker that has it")
            back = served & self._gone
            self._gone = known - served
            membership.announce(models=models)
            await self._add(served - known)
            await self._pauses.pause("gone", of_models(vanished))
            self._pauses.resume("gone", of_models(back))

    async def _add(self, models: Collection[str]) -> None:
        for model in models:
            self._queues.add(model)
        self._consumer.add(self._prefetch(models))
        if not self._is_healthy:
            await self._pauses.pause("unhealthy", of_models(models))
        self._watch_fullness()

    async def _drain(self) -> None:
        """Finishes running jobs within the grace period, then requeues the rest for other workers to continue.

        Where the broker or the store is unavailable the tasks are cancelled: closing the consumer returns deliveries.
        """
        log.info("worker.draining", held=len(self._running), grace=self._options.drain_seconds)
        if await self._idle_within(self._options.drain_seconds):
            return
        self._interrupting = True
        for execution in self._running.values():
            execution.stop(Interrupted())
        if not await self._idle_within(REQUEUE_SECONDS):
            log.warning("worker.drain_failed", held=len(self._running), next="the broker redelivers the jobs")
            for task in self._tasks:
                task.cancel()

    async def _idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
