"""The fair scheduler: which waiting job starts next, and what waits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from shared.job import Job, QueueName


@dataclass(frozen=True, slots=True)
class Backlog:
    """The waiting jobs of one queue. `tokens`: the sum of their estimates; `tenants`: how many tenants have waiting
    jobs; `tenant_jobs`: waiting jobs of the given tenant; `started`: how many jobs of the queue were ever started, and
    `started_tokens` the sum of their estimates.
    """

    jobs: int
    tokens: int
    tenants: int
    tenant_jobs: int
    started: int
    started_tokens: int = 0

    def with_more(self, count: int, tokens: int) -> Backlog:
        """Returns the backlog with `count` more jobs of that tenant, of `tokens` tokens each."""
        more = {"jobs": self.jobs + count, "tenant_jobs": self.tenant_jobs + count}
        return replace(self, tokens=self.tokens + count * tokens, **more)


@dataclass(frozen=True, slots=True)
class QueueState:
    """The state of one queue. `oldest_at`: since when its oldest waiting job has waited, in Unix seconds; None if no
    job waits.
    """

    running: int
    oldest_at: float | None


class FairScheduler(Protocol):
    """Orders the waiting jobs of each queue. The store tells it of each job that waits, starts or ends."""

    async def next_job(self, job: Job, *, served: str | None = None, fresh: bool = False) -> Job | None:
        """Chooses the job to run under a delivery of `job`: another job of its queue whose tenant has had less than its
        share (see shared/fairness.py), or None for `job` itself. `served`: the other job that ran under this delivery
        before. `fresh`: ask the store even if no other tenant was waiting a moment ago. Pass it for a redelivery, whose
        earlier holder may have been running another job under it.

        The worker claims the other job, with its body, and runs it while the delivery of `job` stays unacknowledged.
        Every call with the same `job` returns that other job, until a call names it as `served`. After a crash:

        - The worker dies before the claim or while the other job runs: the broker delivers `job` again at once, this
          call returns the other job, and it is taken over from its dead owner.
        - The worker dies after the end of the other job: this call returns it once more, the claim shows that it is
          over, and the worker names it as `served`.
        - The connection to the broker is lost: the worker goes on running the other job. A second worker that gets the
          delivery is refused the claim. If the first worker then dies, the other job waits for its own message.
        - The store loses its data: each job runs when its own message is delivered.
        """
        ...

    async def backlog(self, queue: QueueName, tenant: str) -> Backlog:
        """Returns the backlog of `queue`, with the share of the tenant."""
        ...

    async def queue_state(self, queue: QueueName) -> QueueState:
        """Returns the state of `queue`. Changes that are in progress may be missing."""
        ...

    async def position(self, job: Job) -> int | None:
        """Returns how many queued jobs start before this one, or None if it does not wait. It is an estimate where
        several tenants wait, because it depends on the estimated sizes of the jobs.
        """
        ...
