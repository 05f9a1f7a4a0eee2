"""A job that failed here is better off elsewhere: what is wrong may be this worker's engine, and not the job."""

from __future__ import annotations

import time
from collections import OrderedDict

from shared.ports import Claim, Registry

PATIENCE = 15.0
"""Seconds for which a job that failed here is left to others; then it is taken all the same."""

REMEMBERED = 1000


class FailedAttempts:
    """Which jobs failed in this worker, at which attempt."""

    def __init__(self, registry: Registry, worker_id: str, model_id: str) -> None:
        self._registry = registry
        self._worker_id = worker_id
        self._model_id = model_id
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def note(self, claim: Claim) -> None:
        self._failed[claim.job_id] = (claim.attempt, time.monotonic())
        if len(self._failed) > REMEMBERED:
            self._failed.popitem(last=False)

    async def leaves(self, claim: Claim) -> bool:
        """Whether the job should go to another worker: the last one it failed in was this one, and there is another.

        The attempt that is given away for it is remembered as one more of this worker's.
        """
        attempt, failed_at = self._failed.get(claim.job_id, (0, 0.0))
        lately = time.monotonic() - failed_at < PATIENCE
        if attempt == 0 or claim.attempt != attempt + 1 or not lately or not await self._others():
            return False
        self._failed[claim.job_id] = (claim.attempt, failed_at)
        return True

    async def _others(self) -> bool:
        workers = await self._registry.workers()
        return any(
            worker.ready and worker.id != self._worker_id and worker.model.id == self._model_id for worker in workers
        )
