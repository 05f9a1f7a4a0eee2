"""Finds jobs whose message the broker has lost. The broker cannot be asked for a single message, so the loss is
inferred.

A job's message is lost if its queue is empty and no worker runs the job. It is also lost if a job of the same tenant
that was queued much later has been claimed; jobs of other tenants may overtake it for fairness. For the second rule,
each search remembers the newest waiting job. When that job has been claimed, all jobs of its tenant that were queued
well before it and still wait are orphans.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from shared.backends.redis import keys
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.fair_queue import RUNNING, RedisFairQueue
from shared.backends.redis.jobs.records import decode_job, fields_of
from shared.job import Job, JobStatus, QueueName

PAGE = 1000
"""Most jobs that one search of a queue reads."""

MARKS = 64
"""Most jobs that are remembered. More than one, because a remembered job may itself be an orphan."""

CLAIMED = {JobStatus.IN_PROGRESS, JobStatus.COMPLETED, JobStatus.FAILED}


class WaitingJob(NamedTuple):
    """A job in its queue's index, and the time since which a worker could have claimed it."""

    job_id: str
    since: float


class Gone(NamedTuple):
    """The messages of jobs that were queued before these times are lost. `everyone`: for all tenants."""

    everyone: float
    tenants: Mapping[str, float] = {}

    @property
    def latest(self) -> float:
        return max([self.everyone, *self.tenants.values()])

    def before(self, tenant: str) -> float:
        return max(self.everyone, self.tenants.get(tenant, 0.0))


class OrphanFinder:
    """Finds orphans. `depth`: returns how many messages of a queue wait to be delivered."""

    def __init__(
        self, pipeline: Pipeline, scheduler: RedisFairQueue, depth: Callable[[QueueName], Awaitable[int]]
    ) -> None:
        self._redis = pipeline
        self._scheduler = scheduler
        self._depth = depth
        self._marks: defaultdict[QueueName, OrderedDict[str, float]] = defaultdict(OrderedDict)
        self._overtaken: defaultdict[QueueName, dict[str, float]] = defaultdict(dict)

    async def find(self, queue: QueueName, waited: float) -> Sequence[Job]:
        await self._watch(queue)
        now = time.time()
        gone = Gone(now - waited)
        if await self._depth(queue) > 0:
            gone = Gone(0.0, {tenant: min(now, at) - waited for tenant, at in self._overtaken[queue].items()})
        waiting = await self._open(queue, gone.latest)
        suspects = await asyncio.gather(*(self._look(each, queue, gone) for each in waiting))
        return [job for job in suspects if job is not None]

    async def _watch(self, queue: QueueName) -> None:
        """Checks which remembered jobs have been claimed, and remembers the newest job."""
        marks = self._marks[queue]
        records = await asyncio.gather(*(self._redis.command("HGETALL", keys.job(job_id)) for job_id in marks))
        overtaken = self._overtaken[queue]
        for job_id, job in zip(tuple(marks), map(decode_job, records), strict=True):
            if job is not None and job.status is JobStatus.QUEUED:
                continue
            since = marks.pop(job_id)
            if job is not None and job.status in CLAIMED:
                overtaken[job.tenant] = max(since, overtaken.get(job.tenant, 0.0))
        for newest in await self._range(queue, f"({RUNNING}", "-inf", "REV", limit=1):
            marks[newest.job_id] = newest.since
        if len(marks) > MARKS:
            marks.popitem(last=False)

    async def _open(self, queue: QueueName, latest: float) -> list[WaitingJob]:
        waiting = await self._range(queue, "-inf", latest, limit=PAGE)
        return waiting + await self._range(queue, RUNNING, RUNNING + latest, limit=PAGE)

    async def _range(
        self, queue: QueueName, start: float | str, stop: float | str, *how: str, limit: int
    ) -> list[WaitingJob]:
        found = await self._redis.command(
            "ZRANGE", keys.open_jobs(str(queue)), start, stop, "BYSCORE", *how, "LIMIT", 0, limit, "WITHSCORES"
        )
        return [WaitingJob(raw.decode(), float(score)) for raw, score in zip(found[::2], found[1::2], strict=True)]

    async def _look(self, waiting: WaitingJob, queue: QueueName, gone: Gone) -> Job | None:
        """Returns the job if no worker can be running it."""
        record = fields_of(await self._redis.command("HGETALL", keys.job(waiting.job_id)))
        job = decode_job(record)
        if job is None or job.status.terminal:
            self._scheduler.remove(str(queue), waiting.job_id)
            return None
        since = max(float(record.get(name, 0.0)) for name in (b"queued", b"lease"))
        return None if since > gone.before(job.tenant) else job
