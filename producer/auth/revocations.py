"""Applies revocations of keys: ends open calls, and cancels jobs and batches with `--cancel-jobs`.

`ignite keys revoke` stores a document, whether a server runs or not, and every API process polls for new ones. Other
processes may still accept the key from their caches, so each revocation is applied repeatedly for a while.
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
from shared.outages import Outage
from shared.ports import JobFilter

log = structlog.get_logger(__name__)

CHECK_EVERY = 2.0
"""Seconds between checks for revoked keys."""

REPEAT_FOR = 3 * FRESH
"""Seconds for which a revocation is applied again: other processes cache keys for FRESH seconds."""

PAGE = 100
OPEN = (JobStatus.QUEUED, JobStatus.IN_PROGRESS)


class RevocationWatcher:
    def __init__(self, revocations: Revocations, service: JobService, batches: BatchRepository) -> None:
        self._revocations = revocations
        self._service = service
        self._batches = batches
        self._done: set[str] = set()

    async def run(self) -> None:
        """Checks for revocations until it is cancelled."""
        outage = Outage()
        while True:
            try:
                await self.check()
            except IgniteError as error:
                if outage.begins():
                    log.warning("revocations.not_read", error=error.message, next=f"read again in {CHECK_EVERY:g} s")
            else:
                if (seconds := outage.ends()) is not None:
                    log.info("revocations.read_again", after=seconds)
            await asyncio.sleep(CHECK_EVERY)

    async def check(self) -> None:
        found = [each async for each in self._revocations.all()]
        for revocation in found:
            if revocation.id not in self._done:
                old_enough = time.time() - revocation.at > REPEAT_FOR
                await self._apply(revocation)
                if old_enough:
                    self._done.add(revocation.id)
        self._done &= {each.id for each in found}

    async def _apply(self, revocation: Revocation) -> None:
        ended = self._service.open_calls.end(revocation.key)
        cancelled = await self._cancel(revocation) if revocation.cancel_jobs else 0
        if ended or cancelled:
            log.info("key.revoked", key=revocation.key, calls_ended=ended, cancelled=cancelled)

    async def _cancel(self, revocation: Revocation) -> int:
        """Cancels the key's open jobs and batches and returns their number."""
        count = 0
        async for batch_id in self._open_batches(revocation):
            try:
                await self._batches.cancel(revocation.tenant, batch_id)
                count += 1
            except (Conflict, NotFound):
                continue  # The batch has ended.
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
