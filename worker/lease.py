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
    loop = asyncio.get_running_loop()
    every = seconds / RENEWALS_PER_LEASE
    renewal: asyncio.Task[None] | None = None

    async def renew() -> None:
        nonlocal timer
        try:
            await store.renew(claim.job_id, claim.attempt, seconds)
        except AttemptFenced as fenced:
            lost(fenced)
            return
        except BackendUnavailable as error:
            log.warning("lease.not_renewed", error=str(error), next=f"trying again in {every:.1f} s")
        timer = loop.call_later(every, start)

    def start() -> None:
        nonlocal renewal
        renewal = loop.create_task(renew(), name=f"lease {claim.job_id}")

    # A timer, not a task: most jobs end before their first renewal.
    timer = loop.call_later(every, start)
    try:
        yield
    finally:
        timer.cancel()
        if renewal is not None:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
