"""What follows when a key is revoked: calls that are open with it end, and its jobs are cancelled where asked.

`ignite keys revoke` leaves a document beside the keys, whether a server runs or not, and every API process looks for
new ones. Other processes go on taking the key for a moment, so each revocation is carried out until that is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import structlog

from producer.auth.keyring import FRESH
from producer.auth.keys import Revocation, Revocations
from producer.batches.repository import BatchRepository
from producer.jobs.service import JobService
from shared.errors import Conflict, IgniteError, NotFound
from shared.job import JobStatus
from shared.ports import JobFilter

log = structlog.get_logger(__name__)

LOOK_EVERY = 2.0
"""Seconds between looks for revoked keys."""

SETTLED = 3 * FRESH
"""Seconds after a revocation in which a process may still have taken the key, with time to spare."""

PAGE = 100
OPEN = (JobStatus.QUEUED, JobStatus.IN_PROGRESS)


class RevocationWatcher:
    def __init__(self, revocations: Revocations, service: JobService, batches: BatchRepository) -> None:
        self._revocations = revocations
        self._service = service
        self._batches = batches
        self._settled: set[str] = set()

    async def run(self) -> None:
        """For the life of the process."""
        while True:
            try:
                await self.look()
            except IgniteError as error:
                log.warning("keys.not_looked_at", error=error.message, next="looking again")
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        found = [each async for each in self._revocations.all()]
        for revocation in found:
            if revocation.id not in self._settled:
                old_enough = time.time() - revocation.at > SETTLED
                await self._carry_out(revocation)
                if old_enough:
                    self._settled.add(revocation.id)
        self._settled &= {each.id for each in found}

    async def _carry_out(self, revocation: Revocation) -> None:
        ended = self._service.open_calls.end(revocation.key)
        cancelled = await self._cancel(revocation) if revocation.cancel_jobs else 0
        if ended or cancelled:
            log.info("key.revoked", key=revocation.key, calls_ended=ended, cancelled=cancelled)

    async def _cancel(self, revocation: Revocation) -> int:
        """How many jobs and batches of the key were told to end."""
        count = 0
        async for batch_id in self._open_batches(revocation):
            try:
                await self._batches.cancel(revocation.tenant, batch_id)
                count += 1
            except (Conflict, NotFound):
                continue  # It is over by now.
        async for job_id in self._open_jobs(revocation):
            await self._service.cancel(job_id)
            count += 1
        return count

    async def _open_jobs(self, revocation: Revocation) -> AsyncGenerator[str]:
        for status in OPEN:
            after, more = None, True
            while more:
                jobs, more = await self._service.list(
                    revocation.tenant, JobFilter(status), after=after, limit=PAGE, oldest_first=True
                )
                for job in jobs:
                    after = job.id
                    if job.made_with == revocation.key:
                        yield job.id

    async def _open_batches(self, revocation: Revocation) -> AsyncGenerator[str]:
        after, more = None, True
        while more:
            batches, more = await self._batches.list(revocation.tenant, after=after, limit=PAGE)
            for batch in batches:
                after = batch.id
                if batch.made_with == revocation.key and batch.status in ("validating", "in_progress"):
                    yield batch.id
