"""Renews a claim's lease while its work runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import structlog

from shared.errors import BackendUnavailable
from shared.ports import AttemptFenced, Claim, JobClaims

log = structlog.get_logger(__name__)

RENEWALS_PER_LEASE = 3
"""Two renewals may fail before the lease runs out."""


@asynccontextmanager
async def held(
    store: JobClaims, claim: Claim, seconds: float, *, lost: Callable[[AttemptFenced], None]
) -> AsyncGenerator[None]:
    """Renews `claim` every third of `seconds` inside the block.

    Calls `lost` once if the claim is no longer this worker's, or is to be cancelled. While the store is unavailable the
    work goes on; if the lease expires meanwhile, its writes are fenced.
    """
    renewal = Renewal(store, claim, seconds, lost=lost)
    renewal.schedule()
    try:
        yield
    finally:
        await renewal.stop()


class Renewal:
    """A class and not closures: closures that refer to each other would keep the claim, and with it a request of maybe
    20 MB, until a garbage collection, which is rare here.
    """

    def __init__(
        self, store: JobClaims, claim: Claim, seconds: float, *, lost: Callable[[AttemptFenced], None]
    ) -> None:
        self._store = store
        self._claim = claim
        self._seconds = seconds
        self._every = seconds / RENEWALS_PER_LEASE
        self._lost = lost
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def schedule(self) -> None:
        """Renews the lease later. A timer, not a task: most jobs end before their first renewal."""
        self._timer = asyncio.get_running_loop().call_later(self._every, self._start)

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _start(self) -> None:
        self._task = asyncio.create_task(self._renew(), name=f"lease {self._claim.job_id}")

    async def _renew(self) -> None:
        try:
            await self._store.renew(self._claim.job_id, self._claim.attempt, self._seconds)
        except AttemptFenced as fenced:
            self._lost(fenced)
            return
        except BackendUnavailable as error:
            log.warning("lease.not_renewed", error=str(error), next=f"trying again in {self._every:.1f} s")
        self.schedule()
