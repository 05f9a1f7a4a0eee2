"""Decides which job of a queue starts next: fair between tenants by tokens, and by deadline within a tenant.

Theory. Start-time fair queuing (Goyal, Vin, Cheng 1996). Each tenant has a *tag*, the virtual time up to which it has
been served. Among the tenants with waiting jobs, the one with the lowest tag is next. Starting a job charges its
tenant: the tag grows by the job's tokens divided by the tenant's weight. The queue's virtual time is the tag of the job
that was started last. A tenant that comes back after a pause starts at the queue's virtual time, or at its own tag if
that is later. So a tenant that was idle gets no credit for it, and a new tenant waits only for the jobs that already
run, not for another tenant's backlog.

A tenant's own jobs start in the order of their deadlines (Liu and Layland 1973: if any order meets all deadlines, this
one does; if none can, it keeps the greatest lateness smallest). The deadline is the end of the job's *window*: a
batch's completion window, or the deadline that the client gave. A job without a window is ordered as if its window were
UNWINDOWED seconds from its creation. So jobs without windows keep their order, shorter windows go before them, and no
stream of later windows starves them. A small batch with a short window waits only for the jobs that already run, not
for the rest of a large batch.

A job's tokens are known when it ends. Its start charges the *estimate* (prompt and `max_tokens`), and its end corrects
the charge to the used tokens. A requeued job is refunded.

The broker delivers in the order of arrival. So a worker that holds the delivery of job J asks for the next job. If
another tenant has had less than its share, or J's tenant has a more urgent job, that job J' is *piggybacked*: the
worker runs it under the delivery of J, which stays unacknowledged, and then asks again. When the message of J' arrives
later, J' has ended already. The store remembers which job is piggybacked on J, so after a crash the next worker with
J's delivery resumes J' first. See `FairScheduler.next_job`.

The embedded backend runs this file. The Lua steps `fair_queue_*.lua` implement the same rule in Redis; the contract
suite compares the two.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from shared.job import Job

Tag = float
"""Virtual time: tokens by weight."""

UNWINDOWED = 86_400.0
"""Seconds after its creation by which a job without a window is ordered."""

Urgency = tuple[float, str]
"""A job's deadline and its id: the order of a tenant's jobs."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A job in the fair queue that has not ended. `tokens`: the estimate; `deadline`: in Unix seconds; `windowed`: the
    deadline is the end of a window.
    """

    tenant: str
    tokens: int
    weight: float = 1.0
    deadline: float = 0.0
    windowed: bool = False

    @property
    def cost(self) -> Tag:
        return self.tokens / self.weight


def entry_of(job: Job) -> Entry:
    """Returns the job as the fair queue knows it."""
    return Entry(job.tenant, job.tokens, job.weight, *deadline_of(job.window_end, job.created_at))


def deadline_of(window_end: float | None, created_at: float) -> tuple[float, bool]:
    """Returns the deadline by which the fair queue orders a job, in whole milliseconds, and whether it has a window."""
    return round(created_at + UNWINDOWED if window_end is None else window_end, 3), window_end is not None


@dataclass(slots=True)
class FairQueue:
    """The fair queue of one model and tier. Job ids sort by age. Repeated calls have no further effect. `jobs`: how
    many wait; `tokens`: the sum of their estimates; `started`: how many jobs were ever started; `started_tokens`: the
    sum of their estimates.
    """

    clock: Callable[[], float] = time.time
    virtual: Tag = 0.0
    jobs: int = 0
    tokens: int = 0
    started: int = 0
    started_tokens: int = 0
    _jobs: dict[str, Entry] = field(default_factory=dict[str, Entry])
    _waiting: dict[str, list[Urgency]] = field(default_factory=dict[str, list[Urgency]])
    _tags: dict[str, Tag] = field(default_factory=dict[str, Tag])
    _debts: dict[str, Tag] = field(default_factory=dict[str, Tag])
    _later: dict[str, float] = field(default_factory=dict[str, float])
    _piggybacked: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def tenants(self) -> Collection[str]:
        """The tenants with waiting jobs."""
        return self._waiting.keys()

    @property
    def running(self) -> int:
        """How many jobs were started and have neither ended nor been requeued."""
        return len(self._jobs) - self.jobs - len(self._later)

    @property
    def oldest(self) -> str | None:
        """The oldest waiting job."""
        return min((job_id for line in self._waiting.values() for _, job_id in line), default=None)

    def jobs_of(self, tenant: str) -> int:
        return len(self._waiting.get(tenant, ()))

    def add(self, job_id: str, entry: Entry) -> None:
        """Adds a waiting job. If no job waits or runs, old debts are dropped."""
        if not self._jobs:
            self._debts.clear()
        self._jobs[job_id] = entry
        self._enter(job_id)

    def next_job(self, job_id: str, served: str | None = None) -> str:
        """Returns the job to start under the delivery of `job_id`, and charges it: `job_id` itself, or another job.
        `served`: the other job that ran under this delivery before.
        """
        if served is not None and self._piggybacked.get(job_id) == served:
            del self._piggybacked[job_id]
        if (chosen_before := self._piggybacked.get(job_id)) is not None:
            return chosen_before
        self._fetch_due()
        chosen = self._choose(job_id)
        if chosen != job_id:
            self._piggybacked[job_id] = chosen
        self.start(chosen)
        return chosen

    def start(self, job_id: str) -> None:
        """Marks a claimed job as started, and charges its tenant unless `next_job` has."""
        entry = self._jobs.get(job_id)
        self._later.pop(job_id, None)
        tag = entry and self._tags.get(entry.tenant, 0.0)
        if entry is not None and tag is not None and self._exit(job_id):
            self.virtual = max(self.virtual, tag)
            self.started += 1
            self.started_tokens += entry.tokens
            self._charge(entry.tenant, entry.cost)
            self._debts = {tenant: debt for tenant, debt in self._debts.items() if debt > self.virtual}

    def requeue(self, job_id: str, due: float = 0.0) -> None:
        """Lets a started job wait again, from the moment `due` (Unix seconds) on, and refunds its charge."""
        if (entry := self._jobs.get(job_id)) is None or job_id in self._later or self._waits(job_id):
            return
        self._charge(entry.tenant, -entry.cost)
        if due > 0:
            self._later[job_id] = due
        else:
            self._enter(job_id)

    def remove(self, job_id: str, tokens: int | None = None) -> None:
        """Removes a job that is over. `tokens`: the tokens it used, if known."""
        if (entry := self._jobs.get(job_id)) is None:
            return
        self._later.pop(job_id, None)
        if not self._exit(job_id) and tokens is not None:
            self._charge(entry.tenant, (tokens - entry.tokens) / entry.weight)
        del self._jobs[job_id]

    def position(self, job_id: str) -> int | None:
        """Returns about how many jobs start before this one; None if it does not wait."""
        if not self._waits(job_id):
            return None
        tenant = self._jobs[job_id].tenant
        rank = bisect_left(self._waiting[tenant], self._urgency(job_id))
        others = [(self._tags[other], len(line)) for other, line in self._waiting.items() if other != tenant]
        return estimated_rank(rank, self._tags[tenant], self.tokens / self.jobs, others=others)

    # ── parts ──

    def _urgency(self, job_id: str) -> Urgency:
        return self._jobs[job_id].deadline, job_id

    def _waits(self, job_id: str) -> bool:
        if job_id not in self._jobs:
            return False
        line, urgency = self._waiting.get(self._jobs[job_id].tenant, []), self._urgency(job_id)
        at = bisect_left(line, urgency)
        return at < len(line) and line[at] == urgency

    def _enter(self, job_id: str) -> None:
        tenant = self._jobs[job_id].tenant
        if self._waits(job_id):
            return
        if tenant not in self._waiting:
            self._waiting[tenant] = []
            self._tags[tenant] = max(self.virtual, self._debts.pop(tenant, 0.0))
        insort(self._waiting[tenant], self._urgency(job_id))
        self.jobs += 1
        self.tokens += self._jobs[job_id].tokens

    def _exit(self, job_id: str) -> bool:
        """Takes a job out of the waiting ones; returns whether it waited."""
        if not self._waits(job_id):
            return False
        tenant = self._jobs[job_id].tenant
        line = self._waiting[tenant]
        del line[bisect_left(line, self._urgency(job_id))]
        self.jobs -= 1
        self.tokens -= self._jobs[job_id].tokens
        if not line:
            del self._waiting[tenant]
            self._debts[tenant] = self._tags.pop(tenant)
        return True

    def _charge(self, tenant: str, cost: Tag) -> None:
        if tenant in self._tags:
            self._tags[tenant] += cost
        else:
            self._debts[tenant] = self._debts.get(tenant, self.virtual) + cost

    def _choose(self, job_id: str) -> str:
        """Chooses another tenant's job only if that tenant's tag is lower, and another job of the same tenant only if
        its deadline is earlier; not if they are equal.
        """
        if not self._waits(job_id):
            return job_id
        tenant = self._jobs[job_id].tenant
        first = min(self._tags, key=lambda each: (self._tags[each], each))
        if self._tags[first] < self._tags[tenant]:
            return self._waiting[first][0][1]
        deadline, urgent = self._waiting[tenant][0]
        return urgent if deadline < self._jobs[job_id].deadline else job_id

    def _fetch_due(self) -> None:
        now = self.clock()
        for job_id in [job_id for job_id, due in self._later.items() if due <= now]:
            del self._later[job_id]
            self._enter(job_id)


def estimated_rank(rank: int, tag: Tag, cost: Tag, others: Iterable[tuple[Tag, int]]) -> int:
    """Returns about how many jobs start before a job, if every job costs `cost`. `rank`: how many jobs of its own
    tenant are before it; `tag`: its tenant's tag; `others`: tag and number of waiting jobs of each other tenant.
    """
    starts = tag + rank * cost
    before = ((round((starts - other) / cost) if cost else rank, count) for other, count in others)
    return rank + sum(max(0, min(wanted, count)) for wanted, count in before)
