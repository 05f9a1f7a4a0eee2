"""The repository of jobs: records, results, and the steps between statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from shared.job import Job, JobStatus, QueueName
from shared.ports.log import Ending


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run one attempt. `offset` is the log's length, `body` the request where it was asked for.

    `lost`: how many attempts in a row lost their worker before they had added anything to the log.
    """

    job_id: str
    attempt: int
    tries: int
    lost: int
    offset: int
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class NotClaimed:
    """Why a claim was not granted.

    `owner` is set when another worker holds the claim, also of a job being cancelled.
    """

    status: JobStatus | None
    owner: str | None = None
    cancelling: bool = False


@dataclass(frozen=True, slots=True)
class JobFilter:
    """`code` is that of the error which ended the job; with `stored` only jobs that were submitted to be stored."""

    status: JobStatus | None = None
    model: str | None = None
    code: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    stored: bool = False


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in one queue. `tokens`: the jobs' estimates; `tenants`: how many have jobs waiting; `tenant_jobs`:
    those of the tenant that was asked for; `started`: how many jobs of the queue have ever been started.
    """

    jobs: int
    tokens: int
    tenants: int
    tenant_jobs: int
    started: int

    def with_more(self, count: int, tokens: int) -> Backlog:
        """Returns the backlog with `count` more jobs of that tenant, of `tokens` tokens each."""
        more = {"jobs": self.jobs + count, "tenant_jobs": self.tenant_jobs + count}
        return replace(self, tokens=self.tokens + count * tokens, **more)


@dataclass(frozen=True, slots=True)
class QueueState:
    """The state of one queue. `oldest_at`: since when its oldest waiting job waits, in Unix seconds; None where no job
    waits.
    """

    running: int
    oldest_at: float | None


class JobStore(Protocol):
    """Stores each job's record and result; authoritative for its status.

    Every change is one atomic step of job.py's table.
    """

    async def create(self, job: Job, *, body: bytes, followed: bool = False, sent: str | None = None) -> str:
        """Write the record of a queued job and keep its request's `body` until its end (that of a detached or failed
        job for as long as the record). `followed` lists this replica as a follower.

        The job's id; but where its tenant's idempotency key stands for another job, that one's, and nothing is written.
        A key stands for the job that was created with it first, for as long as it is kept, unless that job was
        discarded or deleted, or its creation broken off: whoever comes after a process that died has the key within
        about a second. Raises IdempotencyKeyReused where it stands for another request.

        `sent`: a digest by which `reattach` finds the job, should its client be cut off and send the request again.
        """
        ...

    async def reattach(self, tenant: str, sent: str) -> str | None:
        """A job of the tenant's that was created as `sent`, is neither over nor being cancelled, and is followed by no
        living replica; None if there is none. It is detached from now on, and not taken up again.
        """
        ...

    async def discard(self, job: Job, *, may_come: bool = False) -> None:
        """Undo `create` for a job that no queue accepted. With `may_come` the queue did not say: should a message of
        the job come all the same, it finds nothing to run.
        """
        ...

    async def restore(self, job: Job, *, body: bytes | None) -> bool:
        """Write again the record of a job that the store has lost, as its message tells it. False where it has not: the
        record is there, was discarded, or has expired.
        """
        ...

    async def claim(
        self, job_id: str, owner: str, lease: float, *, lost: str | None = None, with_body: bool = False
    ) -> Claim | NotClaimed:
        """Take the right to run the next attempt, for `lease` seconds.

        Not granted when the job is gone, over, being cancelled, or leased by another owner; `lost` names an owner known
        to be dead, whose lease counts for nothing. Taking over from a lost owner counts as a try where the lost attempt
        had added nothing to the log. A claim of the owner's own is one whose answer got lost: it may claim again.
        """
        ...

    async def turn(self, job: Job, *, served: str | None = None, sure: bool = False) -> Job | None:
        """Whose turn it is when a delivery of `job` is at hand: another job of its queue, whose tenant has had less
        than its share, or None: its own. See shared/fairness.py. `served`: the job that has been run under this
        delivery and needs it no more. `sure`: the delivery may have carried a job in other hands; without it, and while
        no other tenant's jobs wait, the call may cost nothing.

        The other job is to be claimed, with its body, and run while the delivery of `job` stays unacknowledged. It is
        named again, to whoever asks with the same `job`, until it is told as `served`. What a crash leaves:

        - of whoever asked, before the claim or while the other job runs: the delivery of `job` comes back at once, and
          with it the other job is named (`sure`), and taken over from its dead owner;
        - after the other job's end: it is named once more, found to be over, and told as `served`;
        - of the connection to the broker: the other job runs on while somebody else is told to run it, and stands by;
          should its owner die after that, it waits until its own message comes up;
        - of the store's memory: each job is run when its own message comes up.
        """
        ...

    async def renew(self, job_id: str, attempt: int, lease: float) -> None:
        """Hold the claim for another `lease` seconds. Raises AttemptFenced, also when the job is being cancelled."""
        ...

    async def release(self, job_id: str, attempt: int, *, counted: bool, after: float = 0.0) -> None:
        """Put a running job back to queued, to come up in `after` seconds; `counted` if the attempt failed. Raises
        AttemptFenced.
        """
        ...

    async def finish(self, job_id: str, attempt: int, offset: int, ending: Ending) -> None:
        """End a running job: append the last frames at `offset`, store the result, wake the followers.

        Repeating it with the same attempt does nothing. Raises AttemptFenced, and LogShorter if `offset` is beyond the
        log's end.
        """
        ...

    async def end_unclaimed(self, job_id: str, ending: Ending, *, owner: str | None = None) -> bool:
        """End a job that no live worker holds: a queued one, or one whose dead `owner` is named.

        False if it is not so.
        """
        ...

    async def cancel(self, job_id: str, ending: Ending) -> None:
        """Ask for the end: a queued job, or one whose owner is dead, gets `ending` at once; a running one is marked
        and its owner told. Does nothing to a job that is over.
        """
        ...

    async def retry(self, job_id: str, deadline_at: float) -> bool:
        """Put a failed job back to queued, with an empty log, no tries and a new deadline. False where it is not
        failed, or its request was not kept.
        """
        ...

    async def requeued(self, job_id: str) -> None:
        """Note that a message of this job was published again: it waits from now on."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """The record, or None if there is none (any more)."""
        ...

    async def body(self, job_id: str) -> bytes | None:
        """The job's request, or None where it is not kept (any more)."""
        ...

    async def list(
        self, tenant: str, where: JobFilter, *, after: str | None, limit: int, oldest_first: bool = False
    ) -> Sequence[Job]:
        """The tenant's jobs, newest first, those older than the id `after`; with `oldest_first` the other way round.

        What a list of stored jobs costs depends on how many of those there are, not on how many jobs; one by metadata
        on how many jobs have its rarest pair (`custom_id` apart), one by code on how many ended with an error.
        """
        ...

    async def dead(self, *, model: str | None = None, after: str | None = None, limit: int) -> Sequence[Job]:
        """Every tenant's jobs that failed for too many attempts or lost workers (code `attempts_exhausted`), newest
        first, those older than the id `after`.
        """
        ...

    async def describe(self, job_id: str, metadata: Mapping[str, str]) -> bool:
        """Give a job other metadata. False if there is no record of it (any more)."""
        ...

    async def delete(self, job: Job) -> None:
        """Forget a job at once, whatever it does: record, log, result, request, and that it was ever there. Should a
        message of it come it finds nothing to run, and `restore` refuses it; a worker that runs it is fenced.
        """
        ...

    async def knew(self, tenant: str, job_id: str) -> bool:
        """Whether the tenant had this job, also after its data has expired."""
        ...

    async def backlog(self, queue: QueueName, tenant: str) -> Backlog:
        """What waits in `queue`, and how much of it is the tenant's."""
        ...

    async def queue_state(self, queue: QueueName) -> QueueState:
        """As it stands, but for what is under way."""
        ...

    async def position(self, job: Job) -> int | None:
        """How many queued jobs come up before this one in its queue; None if it does not wait. Where several tenants'
        jobs wait that is an estimate, since their sizes are.
        """
        ...
