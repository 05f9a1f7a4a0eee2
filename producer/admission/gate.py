"""The gate of the queues: gathers what admission decides by, without waiting for it."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from producer.admission import rules
from producer.admission.drain_rate import DrainRate
from producer.admission.rules import Facts, QueueLimits, jobs_before
from producer.jobs.background_retries import BackgroundRetries
from shared.errors import RateLimited
from shared.job import Job, QueueName
from shared.ports import Backlog, JobStore
from shared.settings import Settings

FRESH, GOOD_FOR = 1.0, 5.0
"""Seconds after which what is known of a queue is looked up again, and for which it is still used."""

REMEMBERED = 10_000


@dataclass(slots=True)
class Known:
    """A look at a queue on a tenant's behalf, and how many jobs of that tenant have been let in here since."""

    backlog: Backlog | None = None
    at: float = float("-inf")
    looking: bool = False
    let_in: int = 0


class AdmissionGate:
    """Looks at queues in the background while jobs come; only who is about to be turned away is looked at for sure."""

    def __init__(self, store: JobStore, settings: Settings, background_retries: BackgroundRetries) -> None:
        self._store = store
        self._background_retries = background_retries
        self._fair = settings.fairness
        self._limits = QueueLimits(settings.queue_limit, settings.queue_token_limit, settings.tenant_queue_limit)
        self._known: OrderedDict[tuple[QueueName, str], Known] = OrderedDict()
        self._rates = DrainRate()

    async def admit(self, job: Job, *, draining: bool) -> None:
        """Raises the refusal. Who named the request may be asking for a job that was accepted long ago: the queue's own
        bound is enough for those.
        """
        refused = rules.refusal(self._facts(job, None if job.idempotency_key else self._backlog(job), draining))
        if isinstance(refused, RateLimited):
            found = await self._look(job.queue, job.tenant, self._known_of(job).let_in)
            refused = rules.refusal(self._facts(job, found, draining))
        if refused is not None:
            raise refused
        self._known_of(job).let_in += 1

    def eta(self, job: Job, position: int | None) -> float | None:
        """Seconds until the job at `position` is started, as far as that is known."""
        self._backlog(job)
        return None if position is None else self._rates.estimate(str(job.queue), position)

    def room_in(self, queue: QueueName) -> float:
        """Seconds until a job has left the queue."""
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
            room_in=self.room_in(job.queue),
        )

    def _backlog(self, job: Job) -> Backlog | None:
        """As it is known; looked up in the background where that was a while ago."""
        known, now = self._known_of(job), time.monotonic()
        if now - known.at > FRESH and not known.looking:
            known.looking = True
            counted = known.let_in
            self._background_retries.retry_until_done(
                f"look at {job.queue}", lambda: self._look(job.queue, job.tenant, counted), until=0.0
            )
        if known.backlog is None or now - known.at > GOOD_FOR:
            return None
        return known.backlog.with_more(known.let_in, job.tokens)

    async def _look(self, queue: QueueName, tenant: str, counted: int) -> Backlog:
        """`counted`: of those let in, how many the look will find in the queue. Too few are better than too many: who
        is turned away for it is looked at again.
        """
        known = self._known[queue, tenant] = self._known.get((queue, tenant)) or Known()
        try:
            known.backlog = await self._store.backlog(queue, tenant)
            known.at, known.let_in = time.monotonic(), max(0, known.let_in - counted)
        finally:
            known.looking = False
        self._rates.observe(str(queue), known.backlog.started, known.backlog.jobs)
        return known.backlog

    def _known_of(self, job: Job) -> Known:
        known = self._known.setdefault((job.queue, job.tenant), Known())
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return known
