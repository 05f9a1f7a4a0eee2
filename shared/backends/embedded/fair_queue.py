"""The fair queues of all queues, in memory. They are built from the waiting jobs in the database at the start; the
virtual times of tenants are lost with the process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from shared.backends.embedded.database.connection import Connection
from shared.fairness import Entry, FairQueue, deadline_of, entry_of
from shared.job import Job, QueueName, Tier


class EmbeddedFairQueues:
    def __init__(self) -> None:
        self._queues: defaultdict[QueueName, FairQueue] = defaultdict(FairQueue)
        self._queue_of: dict[str, QueueName] = {}

    def load(self, found: Iterable[tuple[str, QueueName, Entry]]) -> None:
        """Adds the open jobs of an earlier process. Jobs that it ran wait again, because their worker died with it."""
        for job_id, queue, entry in found:
            self._queue_of[job_id] = queue
            self._queues[queue].add(job_id, entry)

    def of(self, queue: QueueName) -> FairQueue:
        return self._queues[queue]

    def add(self, job: Job) -> None:
        self.load([(job.id, job.queue, entry_of(job))])

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
