"""The ports: what a backend promises. One contract suite (tests/contract) holds every backend to these docstrings.

All calls raise `BackendUnavailable` when the broker or the store does not answer in time; then nothing is known about
whether the step took place, and every step here may safely be repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from shared.job import Job, JobStatus, QueueName
from shared.limits import Limits, Verdict


class AttemptFenced(Exception):
    """This attempt may write no more: another attempt holds the claim, or the job is over or being cancelled.

    `status` is the job's status now, `cancelling` whether a running job has been asked to stop; both are for the log.
    """

    def __init__(self, status: JobStatus | None, *, cancelling: bool = False) -> None:
        super().__init__(f"fenced: the job is {'being cancelled' if cancelling else status or 'gone'}")
        self.status = status
        self.cancelling = cancelling


class LogShorter(ValueError):
    """The log ends before the offset, at `size`: bytes are lost that whoever wrote them was answered for."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the log ends at {size}")
        self.size = size


# ── queue ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Message:
    """A job in a queue: its record as it was submitted, so that even a store that has forgotten it can be told again.

    `body` is the client's request as it came, or None where only the store keeps it.
    """

    job: Job
    body: bytes | None
    traceparent: str | None = None


class Delivery(Protocol):
    """A message in a worker's hands. It is settled exactly once, by one of the three calls.

    Settling a delivery whose connection has died is not an error: the broker delivers the message again, and the claim
    finds out what has happened.
    """

    @property
    def message(self) -> Message: ...

    @property
    def redelivered(self) -> bool:
        """Whether somebody may have had the message before: then `JobStore.turn` has to be sure."""
        ...

    @property
    def served(self) -> str | None:
        """The job that was run under this delivery before its own, if any: see `JobStore.turn`."""
        ...

    async def wait_on(self, served: str) -> None:
        """The job `served` was run under this delivery, and its own waits on: `next` hands the delivery out again,
        before others of its queue. Of a paused queue it goes back.
        """
        ...

    async def ack(self) -> None:
        """The job is over: forget the message."""
        ...

    async def retry(self, after: float = 0.0) -> None:
        """Deliver the message again, to anyone, no sooner than `after` seconds; 0 puts it back at once."""
        ...

    async def reject(self) -> None:
        """Set the message aside as a dead letter."""
        ...


Choose = Callable[[Mapping[QueueName, int]], QueueName | None]
"""Told how many deliveries of each queue are at hand (those that have any, in the consumer's order), it names the queue
to take one from, or None to wait on.
"""


class Consumer(Protocol):
    async def next(self, choose: Choose | None = None) -> Delivery:
        """The next delivery, from the queue that `choose` names; without it, from the first of the consumer's queues
        that has one. `choose` is asked again whenever a delivery comes, and on `look_again`. Waits through reconnects.

        A cancelled call takes no delivery away.
        """
        ...

    def look_again(self) -> None:
        """What `choose` may answer has changed."""
        ...

    async def pause(self, queues: Collection[QueueName] | None = None) -> None:
        """Take no more from `queues` (None: from any): what `next` has not handed out goes back to its queue at once,
        for others. Deliveries in hand stay, to be settled as usual. Pausing twice does nothing.
        """
        ...

    async def resume(self, queues: Collection[QueueName] | None = None) -> None:
        """Take deliveries again."""
        ...


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A message that nobody could decode, as far as it can be read. `queue`: the name of the one that it came from;
    `at`: when it was set aside, in Unix seconds.
    """

    id: str
    queue: str
    at: float
    reason: str
    headers: Mapping[str, str]
    body: bytes


Fate = Literal["keep", "replay", "forget"]


class JobQueue(Protocol):
    """Holds the work that is not done: the truth about what must still run."""

    async def publish(self, message: Message) -> None:
        """Return once the message is durable. Raises QueueFull when the queue's bound is reached.

        A message whose deadline passes in the queue is never delivered; it becomes a dead letter.
        """
        ...

    def consume(
        self, queues: Sequence[QueueName], prefetch: int | Sequence[int]
    ) -> AbstractAsyncContextManager[Consumer]:
        """Take deliveries, earlier queues first; at most `prefetch` of each queue unsettled at a time (a number for all
        of them, or one for each).

        On leaving, whatever is unsettled goes back to its queue.
        """
        ...

    def dead_letters(self) -> AbstractAsyncContextManager[Consumer]:
        """Take the dead letters, each of them to one consumer; `ack` forgets one for good."""
        ...

    async def undecodable(self, decide: Callable[[Undecodable], Fate], limit: int) -> Sequence[Undecodable]:
        """Look through the messages that nobody could decode, at most `limit` of them, and do with each what `decide`
        says: keep it, put it back into the queue it came from, or forget it. Those that were there.
        """
        ...

    async def depth(self, queue: QueueName) -> int:
        """Messages that wait in `queue`; those in a worker's hands are not counted."""
        ...


# ── log ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended. `frames` are the last bytes of its log, `result` its chat.completion as JSON."""

    status: JobStatus
    frames: bytes = b""
    result: bytes | None = None
    usage: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """What a follower has not seen yet: bytes that join on to the last ones, and whether the job is over.

    `ending` carries status, usage and error; its frames are part of `data`. The result comes along for a unary job only
    (its caller waits for just that); for others, and where it is too large for the live path, it is in the store.
    """

    data: bytes
    status: JobStatus
    ending: Ending | None = None


Sink = Callable[[bytes], bool]
"""Takes bytes of a log as they come, and never fails. False: it has these, and no room for more."""


class Follower(Protocol):
    async def next(self, timeout: float | None = None, sink: Sink | None = None) -> Update | None:
        """Everything that has gathered since the last call; waits if there is nothing; None after `timeout` seconds.

        While it waits, bytes that come go to `sink` at once, where there is one; the wait ends when something else
        happens, when there has been nothing for `timeout` seconds, or, with an empty update, when the sink is full.

        Every byte of the log comes exactly once, in order, whatever the live path loses. After an update with an ending
        there is no other. A call after one that timed out looks at the log first, so that nothing waits for ever on a
        live path that has gone silent. Raises Gone if the job's data has expired, LogLost if the store has lost bytes
        that this follower has told, BackendUnavailable if the log cannot be read.
        """
        ...

    def close(self) -> None:
        """Stop following, from any task of the loop: a waiting `next` raises FollowerClosed."""
        ...


class FollowerClosed(Exception):
    """`close` was called."""


class JobLog(Protocol):
    """Each job's append-only bytes: ready SSE frames. A position is a byte offset."""

    def append(self, job_id: str, attempt: int, offset: int, frames: bytes) -> Awaitable[None]:
        """Add `frames` at `offset` in one atomic step and wake the followers. May be called without a task of its own:
        the step is under way when this returns, and appends of one loop turn share a round trip.

        Repeating an append that took place does nothing. Raises AttemptFenced if `attempt` is not the job's running
        one, LogShorter if `offset` is beyond the log's end.
        """
        ...

    def follow(
        self, job_id: str, offset: int = 0, *, created_here: bool = False
    ) -> AbstractAsyncContextManager[Follower]:
        """Read the log from `offset`, then live. With `created_here`, entered before this replica creates the job: the
        job is new, `create(…, followed=True)` puts the replica on its list, and nothing needs reading.
        """
        ...

    async def followed(self, job_id: str) -> bool:
        """Whether a replica that is there follows the job. One of which that cannot be told is taken to be there."""
        ...

    async def read(self, job_id: str, offset: int = 0) -> bytes:
        """The log's bytes from `offset` as it stands."""
        ...


# ── store ────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    deadline_at: float
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class NotClaimed:
    """Why there was nothing to run.

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
        """So many more of that tenant's wait, of so many tokens each."""
        more = {"jobs": self.jobs + count, "tenant_jobs": self.tenant_jobs + count}
        return replace(self, tokens=self.tokens + count * tokens, **more)


@dataclass(frozen=True, slots=True)
class QueueState:
    """How the jobs of one queue fare. `oldest_at`: since when the one that waits longest does, in Unix seconds; None
    where none waits.
    """

    running: int
    oldest_at: float | None


class JobStore(Protocol):
    """Each job's record and result: the truth about what has happened.

    Every change is one atomic step of job.py's table.
    """

    async def create(self, job: Job, *, body: bytes, followed: bool = False, sent: str | None = None) -> str:
        """Write the record of a queued job and keep its request's `body` until its end (that of a detached or failed
        job for as long as the record). `followed` lists this replica as a follower.

        The job's id; but where its tenant's idempotency key stands for another job, that one's, and nothing is written.
        A key stands for the job that was created with it first, for as long as it is kept, unless that job was
        discarded or deleted, or its creation broken off: whoever comes after a process that died has the key within
        about a second. Raises IdempotencyKeyReused where it stands for another request.

        `sent`: a digest by which `take_up` finds the job, should its client be cut off and send the request again.
        """
        ...

    async def take_up(self, tenant: str, sent: str) -> str | None:
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

        What a list of stored jobs costs depends on how many of those there are, not on how many jobs.
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


# ── documents ────────────────────────────────────────────────────────────────────────────────────────────────────────

FLEET = ""
"""The tenant of documents that belong to the installation itself."""


@dataclass(frozen=True, slots=True)
class Document:
    """A small JSON document that is neither a job nor part of one: a key, a file's entry, a batch. `version` grows
    with every write, also where an id is used again; one that is not written yet has version 0.
    """

    kind: str
    tenant: str
    id: str
    value: bytes
    version: int = 0


class DocumentChanged(Exception):
    """Somebody else wrote, made or deleted the document since it was read; nothing was written."""


class Documents(Protocol):
    """Small documents by kind, tenant and id. They are as durable as the jobs' records."""

    async def put(self, document: Document, *, expires_in: float) -> Document:
        """Write `document` for `expires_in` seconds if nobody has written it since it was read: the stored version must
        be `document.version` (0: there must be none). The document with its new version. Raises DocumentChanged.
        """
        ...

    async def get(self, kind: str, tenant: str, id: str) -> Document | None: ...

    async def list(
        self, kind: str, tenant: str, *, after: str | None = None, limit: int = 100, oldest_first: bool = False
    ) -> Sequence[Document]:
        """In the order of their ids, greatest first unless `oldest_first`; those that come behind the id `after`."""
        ...

    async def delete(self, document: Document) -> bool:
        """Forget it if it still has this version. False where it is gone already. Raises DocumentChanged."""
        ...


# ── outbox ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Notice:
    """A job of whose end somebody may have to be told, in one taker's hands until `held_until`."""

    job_id: str
    held_until: float


class Outbox(Protocol):
    """Jobs with a `webhook_url`. One is here from its creation (or its retry) until it is forgotten, so no death
    between its end and a note of it loses it. It is due once it has ended; and, because a note may get lost, again and
    again while it has not.
    """

    async def take(self, limit: int, hold: float) -> Sequence[Notice]:
        """Up to `limit` jobs that are due, each to one taker; after `hold` seconds, to the next one."""
        ...

    async def put_back(self, notice: Notice, after: float) -> None:
        """Have it due again in `after` seconds. Does nothing where the job has ended since, or is another taker's."""
        ...

    async def forget(self, notice: Notice) -> None:
        """Nobody is to be told any more. Does nothing where the job has ended since, or is another taker's."""
        ...


# ── limiter ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Limiter(Protocol):
    """Counts what keys with limits use, by the rules of limits.py, the same for all replicas. A store that forgets, or
    an embedded process that is started anew, begins to count anew.
    """

    async def take(self, key: str, limits: Limits, job_id: str, *, tokens: int, until: float) -> Verdict:
        """Count one request of about `tokens` against the key if all its limits leave room; otherwise nothing. Its job
        counts as open until it is settled, or until `until` (Unix seconds). For a job that is open already this changes
        nothing.
        """
        ...

    def settle(self, key: str, job_id: str, *, used: int | None) -> Awaitable[None]:
        """The job is over, with so many tokens; None: nobody knows, and the estimate stands. Under way when this
        returns. Does nothing for a job that is not open. The store settles a job with a `limit_key` when it ends or is
        deleted; whoever hears of the end first may do so as well.
        """
        ...

    def give_back(self, key: str, job_id: str) -> Awaitable[None]:
        """The request was not accepted after all: as if it had never been counted. Under way when this returns."""
        ...

    async def open_jobs(self, key: str, limit: int, *, skip: int = 0) -> Sequence[str]:
        """The ids of the key's open jobs, the nearest deadlines first, but for `skip` of them."""
        ...


# ── registry ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as workers announce it. `seen_at`: when a worker last did; `aliases`: other names that requests may call
    it by; `modalities`: what it takes (`text`, `image`, `audio`, …), empty where the engine does not tell.
    """

    id: str
    engine: str
    created_at: float
    seen_at: float
    context_length: int | None = None
    description: str | None = None
    capabilities: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """`ready`: whether its engine can generate at present. `running`: jobs that it runs, as it last said; `version`: of
    its Ignite.
    """

    id: str
    model: ModelInfo
    concurrency: int
    started_at: float
    ready: bool = True
    running: int = 0
    version: str = ""


class Membership(Protocol):
    @property
    def cancels(self) -> AsyncIterator[str]:
        """The ids of jobs that the worker is asked to stop.

        Requests may get lost: the log and the lease refuse a cancelled job as well.
        """
        ...

    def announce(self, *, ready: bool) -> None:
        """Tell everybody whether the worker's engine can generate. Does not wait for them to hear it."""
        ...


def idle() -> int:
    return 0


class Registry(Protocol):
    """Who works, on what; and the way to a worker's ear."""

    def join(self, worker: WorkerInfo, running: Callable[[], int] = idle) -> AbstractAsyncContextManager[Membership]:
        """Announce a worker while inside. `running` tells how many jobs it runs, whenever it is announced again."""
        ...

    async def alive(self, worker_id: str) -> bool:
        """Whether the worker's process is there, by its connection and not by a clock."""
        ...

    async def workers(self) -> Sequence[WorkerInfo]:
        """The workers that are there now."""
        ...

    async def models(self) -> Sequence[ModelInfo]:
        """Every model that a worker announced lately, whether or not one is there now."""
        ...


class Backend(Protocol):
    """Queue, log, store, documents, outbox, limiter and registry: one set."""

    @property
    def name(self) -> str: ...
    @property
    def queue(self) -> JobQueue: ...
    @property
    def log(self) -> JobLog: ...
    @property
    def store(self) -> JobStore: ...
    @property
    def documents(self) -> Documents: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def limiter(self) -> Limiter: ...
    @property
    def registry(self) -> Registry: ...

    async def strays(self, queue: QueueName, waited: float) -> Sequence[Job]:
        """Jobs of `queue` that have waited for more than `waited` seconds, and for which neither a message nor a living
        worker stands, as far as can be told: what a broker lost, or a process that died between two steps.

        A job that is named here by mistake takes no harm from one message more.
        """
        ...

    async def warnings(self, longest_job: float) -> Sequence[str]:
        """What an operator should mend before jobs of `longest_job` seconds are run, a sentence each."""
        ...

    async def check(self) -> Mapping[str, str | None]:
        """Each part's name with None if it answers, else with one sentence on what is wrong."""
        ...

    async def close(self) -> None: ...
