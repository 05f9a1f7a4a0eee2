"""Finds jobs whose message the broker has lost, and publishes or ends them, so that every accepted job ends."""

from __future__ import annotations

import asyncio
import random
import time

import structlog

from producer.catalog import Catalog
from producer.jobs.service import JobService
from shared.errors import IgniteError, RequestLost
from shared.job import Job, JobStatus, QueueName, Tier
from shared.ports import Backend

log = structlog.get_logger(__name__)


class Reconciler:
    def __init__(self, backend: Backend, service: JobService, catalog: Catalog) -> None:
        self._backend = backend
        self._service = service
        self._catalog = catalog

    async def run(self, every: float) -> None:
        """Sweeps about every `every` seconds until cancelled. Replicas sweep without coordination: a job that two of
        them publish again runs once.
        """
        while True:
            await asyncio.sleep(every * random.uniform(0.5, 1.5))
            try:
                queues = [QueueName(model.id, tier) for model in await self._catalog.models() for tier in Tier]
            except IgniteError as error:
                log.warning("reconciler.not_started", error=str(error), next="run again at the next sweep")
                continue
            for queue in queues:
                await self._sweep_if_possible(queue, every)

    async def _sweep_if_possible(self, queue: QueueName, waited: float) -> None:
        """Sweeps one queue; an error in it does not stop the sweep of the others."""
        try:
            await self.sweep(queue, waited)
        except IgniteError as error:
            log.warning(
                "reconciler.interrupted", queue=str(queue), error=str(error), next="run again at the next sweep"
            )

    async def sweep(self, queue: QueueName, waited: float) -> int:
        """Publishes the orphans of `queue` again, or ends them; returns their number."""
        orphans = await self._backend.orphans(queue, waited)
        for job in orphans:
            await self._recover(job)
        return len(orphans)

    async def _recover(self, job: Job) -> None:
        if job.deadline_at <= time.time():
            await self._service.expire(job.id, owner=job.owner)
        elif (body := await self._backend.store.body(job.id)) is None:
            log.error("job.request_lost", job=job.id, next="the job has failed")
            await self._service.end_unclaimed(
                job.id, JobStatus.FAILED, RequestLost("No copy of the job's request is left."), owner=job.owner
            )
        elif await self._has_no_client(job):
            log.warning("job.orphaned", job=job.id, next="its API died before it was accepted: cancelled")
            await self._service.cancel(job.id)
        else:
            log.warning(
                "job.republished", job=job.id, status=job.status, next="the job runs when its new message is delivered"
            )
            await self._service.publish_again(job, body)

    async def _has_no_client(self, job: Job) -> bool:
        """Whether the job is a call that never started and that no API process follows any more."""
        return not job.detached and job.attempt == 0 and not await self._backend.log.followed(job.id)
