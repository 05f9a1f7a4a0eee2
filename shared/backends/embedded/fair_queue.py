"""The fair queues of all queues, in memory. They are built from the waiting jobs in the database at the start; the
virtual times of tenants are lost with the process.
"""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial

from shared.backends.embedded.database import views
from shared.backends.embedded.database.connection import Database
from shared.backends.embedded.database.transactions import Connection
from shared.fairness import Entry, FairQueue, deadline_of, entry_of
from shared.job import Job, QueueName, Tier, born_at
from shared.ports import Backlog, QueueState


class EmbeddedFairQueues:
    """`fair`: whether the tenants of a queue share its workers fairly; otherwise jobs run in the order of arrival."""

    def __init__(self, database: Database, *, fair: bool) -> None:
        self._database = database
        self._fair = fair
        self._queues: defaultdict[QueueName, FairQueue] = defaultdict(FairQueue)
        self._queue_of: dict[str, QueueName] = {}

    async def load(self) -> None:
        """Adds the open jobs of an earlier process. Jobs that it ran wait again, because their worker died with it."""
        for job_id, queue, entry in await self._database.run(load_open):
            self._queue_of[job_id] = queue
            self._queues[queue].add(job_id, entry)

    async def next_job(self, job: Job, *, served: str | None = None, fresh: bool = False) -> Job | None:
        del fresh  # The fair queues are in memory and always current.
        queue = self._queues[job.queue]
        while self._fair and (chosen := queue.next_job(job.id, served)) != job.id:
            other = await self._database.run(partial(views.get, job_id=chosen, now=time.time()))
            if other is not None and not other.status.terminal:
                return other
            self.remove(chosen)
            served = chosen
        return None

    async def backlog(self, queue: QueueName, tenant: str) -> Backlog:
        waiting = self._queues[queue]
        return Backlog(
            jobs=waiting.jobs,
            tokens=waiting.tokens,
            tenants=len(waiting.tenants),
            tenant_jobs=waiting.jobs_of(tenant),
            started=waiting.started,
            started_tokens=waiting.started_tokens,
        )

    async def queue_state(self, queue: QueueName) -> QueueState:
        waiting = self._queues[queue]
        return QueueState(waiting.running, None if waiting.oldest is None else born_at(waiting.oldest))

    async def position(self, job: Job) -> int | None:
        rank = self._queues[job.queue].position(job.id) if self._fair else None
        return await self._database.run(lambda db: views.position(db, job)) if rank is None else rank

    def add(self, job: Job) -> None:
        self._queue_of[job.id] = job.queue
        self._queues[job.queue].add(job.id, entry_of(job))

    def start(self, job_id: str) -> None:
        if (queue := self._queue_of.get(job_id)) is not None:
            self._queues[queue].start(job_id)

    def requeue(self, job_id: str, due: float) -> None:
        if (queue := self._queue_of.get(job_id)) is not None:
            self._queues[queue].requeue(job_id, due)

    def remove(self, job_id: str, tokens: int | None = None) -> None:
        if (queue := self._queue_of.pop(job_id, None)) is not None:
            self._queues[queue].remove(job_id, tokens)


def load_open(db: Connection) -> list[tuple[str, QueueName, Entry]]:
    rows = db.execute(
        "SELECT id, model, tier, window_end, created_at, tenant, tokens, weight"
        " FROM jobs WHERE finished_at IS NULL ORDER BY id"
    )
    return [
        (id, QueueName(model, Tier(tier)), Entry(tenant, tokens, weight, *deadline_of(window_end, created_at)))
        for id, model, tier, window_end, created_at, tenant, tokens, weight in rows
    ]
