"""Leaves jobs that failed here to other workers: the fault may be this worker's engine and not the job's."""

from __future__ import annotations

import time

from cachetools import FIFOCache

from shared.ports import Claim, Registry

DEFERRED = 15.0
"""Seconds for which a job that failed here is left to other workers; then this one takes it all the same."""

REMEMBERED = 1000
"""Jobs; the oldest are dropped first."""


class FailedAttempts:
    """Remembers which jobs failed in this worker, and at which attempt."""

    def __init__(self, registry: Registry, worker_id: str) -> None:
        self._registry = registry
        self._worker_id = worker_id
        self._failed: FIFOCache[str, tuple[int, float]] = FIFOCache(REMEMBERED)

    def record(self, claim: Claim) -> None:
        self._failed[claim.job_id] = (claim.attempt, time.monotonic())

    async def defers(self, claim: Claim, model_id: str) -> bool:
        """Whether to leave the job to another worker: its last failed attempt was here, and another worker with that
        model is ready.

        The claim itself used up an attempt number, which is recorded as this worker's, too.
        """
        attempt, failed_at = self._failed.get(claim.job_id, (0, 0.0))
        is_recent = time.monotonic() - failed_at < DEFERRED
        if attempt == 0 or claim.attempt != attempt + 1 or not is_recent or not await self._others(model_id):
            return False
        self._failed[claim.job_id] = (claim.attempt, failed_at)
        return True

    async def _others(self, model_id: str) -> bool:
        workers = await self._registry.workers()
        return any(worker.ready and worker.id != self._worker_id and worker.serves(model_id) for worker in workers)
