"""Claims a delivery's job, or says why it cannot be claimed."""

from __future__ import annotations

import asyncio

import structlog

from shared.errors import JobCancelled
from shared.job import JobStatus
from shared.ports import Claim, Delivery, NotClaimed
from shared.retry import retry_while_unavailable
from worker.context import WorkerContext
from worker.outcome import ended_early
from worker.piggybacked import PiggybackedDelivery
from worker.telemetry.metrics import JOB_TAKEOVERS

log = structlog.get_logger(__name__)

OWNER_CHECKS = (0.0, 0.02, 0.05, 0.1, 0.3)
"""Seconds between checks of another owner: the broker may notice a killed worker a moment before the store does."""


class Claiming:
    def __init__(self, context: WorkerContext, delivery: Delivery) -> None:
        self._context = context
        self._message = delivery.message
        self._job = delivery.message.job
        self._piggybacked = isinstance(delivery, PiggybackedDelivery)
        self._store = context.backend.store

    async def claim(self) -> Claim | NotClaimed:
        """Claims the job. Takes it over from a dead worker, or ends it there if it is to be cancelled."""
        refusal = await self._claim_from(None)
        if isinstance(refusal, NotClaimed) and refusal.status is None and await self._restored():
            refusal = await self._claim_from(None)
        if not isinstance(refusal, NotClaimed) or (refusal.owner is not None and await self._is_alive(refusal.owner)):
            return refusal
        if refusal.cancelling:
            await self._end_cancelled(refusal.owner)
            return NotClaimed(JobStatus.CANCELLED)
        return refusal if refusal.owner is None else await self._take_over(refusal.owner)

    async def _take_over(self, lost: str) -> Claim | NotClaimed:
        claim = await self._claim_from(lost)
        if isinstance(claim, Claim) and lost != self._context.worker_id:
            JOB_TAKEOVERS.labels(self._job.model).inc()
        return claim

    async def _claim_from(self, lost: str | None) -> Claim | NotClaimed:
        context = self._context
        return await retry_while_unavailable(
            lambda: self._store.claim(
                self._job.id,
                context.worker_id,
                context.lease_seconds,
                lost=lost,
                with_body=self._message.body is None,
            )
        )

    async def _is_alive(self, owner: str) -> bool:
        """Whether `owner` is another worker that is alive."""
        if owner == self._context.worker_id:
            return False  # The reply to an earlier claim of ours got lost; nothing here runs the job.
        for delay in OWNER_CHECKS:
            await asyncio.sleep(delay)
            if not await retry_while_unavailable(lambda: self._context.backend.registry.alive(owner)):
                return False
        return True

    async def _restored(self) -> bool:
        """Whether the store had lost the job and has it back from its message. Piggybacked jobs have none here."""
        if self._piggybacked:
            return False
        restored = await retry_while_unavailable(lambda: self._store.restore(self._job, body=self._message.body))
        if restored:
            log.warning("job.restored", next="the store had lost the job; it runs from the start")
        return restored

    async def _end_cancelled(self, owner: str | None) -> None:
        ending = ended_early(JobStatus.CANCELLED, JobCancelled("The job was cancelled."))
        await retry_while_unavailable(lambda: self._store.end_unclaimed(self._job.id, ending, owner=owner))
