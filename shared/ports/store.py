"""The repository of jobs: records, results, and the steps between statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.job import Job, JobStatus
from shared.ports.log import Ending


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run one attempt. `offset`: the length of the log; `body`: the request, if the caller asked for it;
    `lost`: how many attempts in a row lost their worker before they had appended anything to the log.
    """

    job_id: str
    attempt: int
    tries: int
    lost: int
    offset: int
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class NotClaimed:
    """Why a claim was not granted. `owner`: the worker that holds the claim, if any."""

    status: JobStatus | None
    owner: str | None = None
    cancelling: bool = False


@dataclass(frozen=True, slots=True)
class JobFilter:
    """`code`: of the error that ended the job; `stored`: only jobs with `store: true`."""

    status: JobStatus | None = None
    model: str | None = None
    code: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    stored: bool = False


class JobSubmissions(Protocol):
    """Creates jobs' records, and removes those of refused jobs."""

    async def create(self, job: Job, *, body: bytes, followed: bool = False, sent: str | None = None) -> str:
        """Writes the record of a queued job, and returns its id. The request's `body` is kept until the job ends; for a
        detached or failed job, as long as the record. `followed`: adds this replica to the job's followers. `sent`: a
        digest of the request, by which `reattach` finds the job if the client is cut off and sends the request again.

        If the job's idempotency key belongs to another job, that job's id is returned and nothing is written. A key
        belongs to the first job that was created with it, until the key expires or the job is discarded or deleted. If
        the creation was interrupted because a process died, the next request gets the key within about a second.
        Raises IdempotencyKeyReused if the key belongs to another request.
        """
        ...

    async def reattach(self, tenant: str, sent: str) -> str | None:
        """Finds a job of the tenant that was created with the digest `sent`, is neither over nor being cancelled, and
        has no living follower. Marks it as detached and returns its id, or None. A job is reattached only once.
        """
        ...

    async def discard(self, job: Job, *, may_come: bool = False) -> None:
        """Undoes `create` for a job that the queue did not accept. `may_come`: the queue did not answer, so a message
        may still be delivered; the worker then finds nothing to run.
        """
        ...

    async def restore(self, job: Job, *, body: bytes | None) -> bool:
        """Writes the record of a job that the store has lost, from its message. Returns False if the record exists, was
        discarded, or has expired.
        """
        ...

    async def retry(self, job_id: str, deadline_at: float) -> bool:
        """Queues a failed job again, with an empty log, no tries and a new deadline. Returns False if it has not
        failed, or its request was not kept.
        """
        ...

    async def requeued(self, job_id: str) -> None:
        """Records that a message of this job was published again, so that it waits from now on."""
        ...


class JobClaims(Protocol):
    """Gives a job to one worker at a time. Each call of an attempt is refused once its claim is lost."""

    async def claim(
        self, job_id: str, owner: str, lease: float, *, lost: str | None = None, with_body: bool = False
    ) -> Claim | NotClaimed:
        """Claims the right to run the next attempt, for `lease` seconds.

        Not granted if the job does not exist, is over, is being cancelled, or is leased to another owner. `lost`: an
        owner that is known to be dead; its lease is ignored. A takeover from it counts as a try if the lost attempt had
        appended nothing to the log. An owner may claim its own job again, because the answer to its first claim may
        have been lost.
        """
        ...

    async def renew(self, job_id: str, attempt: int, lease: float) -> None:
        """Extends the claim by `lease` seconds from now. Raises AttemptFenced, also if the job is being cancelled."""
        ...

    async def release(self, job_id: str, attempt: int, *, counted: bool, after: float = 0.0) -> None:
        """Returns a running job to its queue, to be started in `after` seconds at the earliest. `counted`: the attempt
        failed and counts as a try. Raises AttemptFenced.
        """
        ...

    async def finish(self, job_id: str, attempt: int, offset: int, ending: Ending) -> None:
        """Ends a running job: appends the last frames at `offset`, stores the result and wakes the followers.

        A repeated call with the same attempt does nothing. Raises AttemptFenced, and LogShorter if `offset` is beyond
        the log's end.
        """
        ...


class JobEndings(Protocol):
    """Ends jobs that no worker holds, and removes jobs."""

    async def end_unclaimed(self, job_id: str, ending: Ending, *, owner: str | None = None) -> bool:
        """Ends a job that no living worker holds: a queued job, or one of the dead worker `owner`. Returns False if the
        job is over or has another owner.
        """
        ...

    async def cancel(self, job_id: str, ending: Ending) -> None:
        """Cancels a job. A queued job, or one whose owner is dead, gets `ending` at once. A running job is marked, and
        its owner is notified. Does nothing if the job is over.
        """
        ...

    async def delete(self, job: Job) -> None:
        """Deletes a job at once, in any status: record, log, result, request and its id. A worker that runs it is
        fenced. A message of it that is delivered later finds nothing to run, and `restore` refuses it.
        """
        ...


class JobReader(Protocol):
    """Reads jobs, alone and in lists; and changes their metadata."""

    async def get(self, job_id: str) -> Job | None:
        """Returns the record, or None if it does not exist or has expired."""
        ...

    async def body(self, job_id: str) -> bytes | None:
        """Returns the job's request, or None if it is not kept."""
        ...

    async def list(
        self, tenant: str, where: JobFilter, *, after: str | None, limit: int, oldest_first: bool = False
    ) -> Sequence[Job]:
        """Returns the tenant's jobs that match, newest first, behind the id `after`; with `oldest_first` the reverse.

        The cost of a list grows with the number of jobs in the index that serves it: the tenant's stored jobs for
        `stored`; the jobs with the rarest metadata pair (`custom_id` is not indexed) for `metadata`; the jobs that
        ended with an error for `code`.
        """
        ...

    async def dead(self, *, model: str | None = None, after: str | None = None, limit: int) -> Sequence[Job]:
        """Returns all tenants' jobs that failed with code `attempts_exhausted`, newest first, behind the id `after`."""
        ...

    async def knew(self, tenant: str, job_id: str) -> bool:
        """Whether the tenant has or had this job. True also for some time after its data has expired."""
        ...

    async def describe(self, job_id: str, metadata: Mapping[str, str]) -> bool:
        """Replaces a job's metadata. Returns False if the record does not exist or has expired."""
        ...


class JobStore(JobSubmissions, JobClaims, JobEndings, JobReader, Protocol):
    """Stores each job's record and result; authoritative for its status.

    Every change is one atomic step of job.py's table. Who needs a part depends on that part.
    """
