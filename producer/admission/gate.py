"""The admission gate: caches queue backlogs and applies the admission rules to each job."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cachetools import LRUCache

from producer.admission import rules
from producer.admission.drain_rate import DrainRate
from producer.admission.rules import Facts, QueueLimits, jobs_before
from producer.jobs.background_retries import BackgroundRetries
from shared.errors import RateLimited
from shared.job import Job, QueueName
from shared.ports import Backlog, FairScheduler
from shared.settings import Settings

FRESH, GOOD_FOR = 1.0, 5.0
"""Seconds after which a cached backlog is read again, and for which it is still used."""

REMEMBERED = 10_000


@dataclass(slots=True)
class CachedBacklog:
    """A queue's backlog for one tenant. `at`: when it was read (monotonic); `reading`: a read is in progress;
    `admitted`: jobs of the tenant that this process has admitted since.
    """

    backlog: Backlog | None = None
    at: float = float("-inf")
    reading: bool = False
    admitted: int = 0


class AdmissionGate:
    """Admits or refuses jobs. Backlogs are cached and read in the background; they are read again before a refusal."""

    def __init__(self, scheduler: FairScheduler, settings: Settings, background_retries: BackgroundRetries) -> None:
        self._scheduler = scheduler
        self._background_retries = background_retries
        self._fair = settings.fairness
        self._limits = QueueLimits(settings.queue_limit, settings.queue_token_limit, settings.tenant_queue_limit)
        self._cached: LRUCache[tuple[QueueName, str], CachedBacklog] = LRUCache(REMEMBERED)
        self._rates = DrainRate()

    async def admit(self, job: Job, *, draining: bool) -> None:
        """Raises the refusal. Skips the backlog for requests with an Idempotency-Key, whose job may have been accepted
        before: the queue's own length limit is enough for them.
        """
        refused = rules.refusal(self._facts(job, None if job.idempotency_key else self._backlog(job), draining))
        if isinstance(refused, RateLimited):
            found = await self._read(job.queue, job.tenant, self._cached_for(job).admitted)
            refused = rules.refusal(self._facts(job, found, draining))
        if refused is not None:
            raise refused
        self._cached_for(job).admitted += 1

    def eta(self, job: Job, position: int | None) -> float | None:
        """Returns the seconds until the job at `position` (from 0) starts, or None if unknown."""
        self._backlog(job)
        return None if position is None else self._rates.estimate(str(job.queue), position)

    def seconds_until_room(self, queue: QueueName) -> float:
        """Returns the seconds until a job has left the queue."""
        return self._rates.seconds_for(str(queue), 1)

    def _facts(self, job: Job, backlog: Backlog | None, draining: bool) -> Facts:
        before = None if backlog is None else jobs_before(backlog, fair=self._fair)
        return Facts(
            draining=draining,
            time_left=job.deadline_at - time.time(),
            limits=self._limits,
            tokens=job.tokens,
            backlog=backlog,
            wait=None if not before else self._rates.trusted(str(job.queue), before),
            seconds_until_room=self.seconds_until_room(job.queue),
        )

    def _backlog(self, job: Job) -> Backlog | None:
        """Returns the cached backlog, or None if it is too old, and starts a read in the background if it is due."""
        cached, now = self._cached_for(job), time.monotonic()
        if now - cached.at > FRESH and not cached.reading:
            cached.reading = True
            counted = cached.admitted
            self._background_retries.retry_until_done(
                f"read the backlog of {job.queue}", lambda: self._read(job.queue, job.tenant, counted), until=0.0
            )
        if cached.backlog is None or now - cached.at > GOOD_FOR:
            return None
        return cached.backlog.with_more(cached.admitted, job.tokens)

    async def _read(self, queue: QueueName, tenant: str, counted: int) -> Backlog:
        """Reads and caches the backlog. `counted`: admitted jobs that the read will find in the queue. If it is too
        low, a job may be refused wrongly, but the backlog is read again before a refusal.
        """
        cached = self._cached[queue, tenant] = self._cached.get((queue, tenant)) or CachedBacklog()
        try:
            cached.backlog = await self._scheduler.backlog(queue, tenant)
            cached.at, cached.admitted = time.monotonic(), max(0, cached.admitted - counted)
        finally:
            cached.reading = False
        self._rates.observe(str(queue), cached.backlog.started, cached.backlog.jobs)
        return cached.backlog

    def _cached_for(self, job: Job) -> CachedBacklog:
        return self._cached.setdefault((job.queue, job.tenant), CachedBacklog())
