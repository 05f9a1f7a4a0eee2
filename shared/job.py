"""A job and the one table of its life.

Theory. A *request* that was accepted is a *job*. Its id is the completion's id and outlives every *attempt*. A job is
always in exactly one status; those in `TERMINAL` are its end, unless a person asks for more. Every move is one *event*
of the table below, applied atomically by a store; an event that the table does not list for the present status is
illegal: it raises (or, in a store, is refused) and changes nothing. An attempt is numbered from 1 and the number is
the *fencing token*: a worker that lost its claim still holds an old number, and everything it then writes is refused.
Where a store has lost a record and it is written again, its tokens count from an epoch of its own: none is given twice.

    queued ──claim──▶ in_progress ──complete | fail | cancel | expire──▶ (terminal)
      ▲ │                │    ▲ │
      │ └─ fail|cancel|  │    └─┘ claim: takeover of a lost attempt
      │    expire        │
      └──── release ─────┘  interrupted (drained: not counted as a try) or to be tried again (counted)

    failed ──retry──▶ queued: asked for by hand, under the same id, with a fresh log and fresh tries

What a takeover says about the job depends on what the lost attempt had done. If it had added to the log, the job was
getting on and its worker died of something else: nothing is counted. If it had added nothing, the job may be what
killed its worker: it counts as a try, and a job that lost so many workers in a row (two, by default) is quarantined:
it fails, and waits for a person to look at it and to retry it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal


class JobStatus(StrEnum):
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.EXPIRED})


class JobEvent(StrEnum):
    CLAIM = "claim"
    RELEASE = "release"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"
    RETRY = "retry"


TRANSITIONS: Mapping[tuple[JobStatus, JobEvent], JobStatus] = {
    (JobStatus.QUEUED, JobEvent.CLAIM): JobStatus.IN_PROGRESS,
    (JobStatus.QUEUED, JobEvent.FAIL): JobStatus.FAILED,
    (JobStatus.QUEUED, JobEvent.CANCEL): JobStatus.CANCELLED,
    (JobStatus.QUEUED, JobEvent.EXPIRE): JobStatus.EXPIRED,
    (JobStatus.IN_PROGRESS, JobEvent.CLAIM): JobStatus.IN_PROGRESS,
    (JobStatus.IN_PROGRESS, JobEvent.RELEASE): JobStatus.QUEUED,
    (JobStatus.IN_PROGRESS, JobEvent.COMPLETE): JobStatus.COMPLETED,
    (JobStatus.IN_PROGRESS, JobEvent.FAIL): JobStatus.FAILED,
    (JobStatus.IN_PROGRESS, JobEvent.CANCEL): JobStatus.CANCELLED,
    (JobStatus.IN_PROGRESS, JobEvent.EXPIRE): JobStatus.EXPIRED,
    (JobStatus.FAILED, JobEvent.RETRY): JobStatus.QUEUED,
}


class IllegalTransition(Exception):
    """The event is not in the table for the job's present status."""


def advance(status: JobStatus, event: JobEvent) -> JobStatus:
    """The status after `event`. Raises IllegalTransition."""
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise IllegalTransition(f"a job that is {status} cannot {event}") from None


def sources(event: JobEvent) -> tuple[JobStatus, ...]:
    """The statuses in which `event` is legal: what an atomic step in a store checks."""
    return tuple(status for status, possible in TRANSITIONS if possible is event)


ENDINGS: Mapping[JobStatus, JobEvent] = {
    JobStatus.COMPLETED: JobEvent.COMPLETE,
    JobStatus.FAILED: JobEvent.FAIL,
    JobStatus.CANCELLED: JobEvent.CANCEL,
    JobStatus.EXPIRED: JobEvent.EXPIRE,
}


class Tier(StrEnum):
    """OpenAI's `service_tier`; workers take from the first listed queue first."""

    PRIORITY = "priority"
    DEFAULT = "default"
    FLEX = "flex"


Mode = Literal["unary", "stream"]


@dataclass(frozen=True, slots=True)
class QueueName:
    """One queue per model and tier."""

    model: str
    tier: Tier

    def __str__(self) -> str:
        return f"{self.model}.{self.tier}"


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What a client calls a request, so that sending it again makes no second job: the name's hash, what tells the
    request from others, and the seconds for which the name is kept.
    """

    name: str
    fingerprint: str
    kept: float = 86_400.0


@dataclass(slots=True)
class Job:
    """A job's record. Times are Unix seconds; `result` is the `chat.completion` as JSON bytes.

    `attempt` counts every claim; `tries` counts those that failed, or were lost before they had added anything.
    `tokens`: an estimate of what it will use, prompt and answer; `weight`: its tenant's share beside others'.
    `stored` is the client's `store: true`; `detached` jobs run on when the client leaves;
    `webhook_url` is told of the end; `limit_key`: the id of the key whose limits count the job until then;
    `made_with`: the id of the stored key that asked for it.
    """

    id: str
    tenant: str
    model: str
    tier: Tier
    mode: Mode
    created_at: float
    deadline_at: float
    retention: float
    detached: bool = False
    stored: bool = False
    seed: int | None = None
    tokens: int = 1
    weight: float = 1.0
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    idempotency_key: IdempotencyKey | None = None
    webhook_url: str | None = None
    limit_key: str | None = None
    made_with: str | None = None
    status: JobStatus = JobStatus.QUEUED
    attempt: int = 0
    tries: int = 0
    owner: str | None = None
    started_at: float | None = None
    first_token_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    chunks: int = 0
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    result: bytes | None = None

    @property
    def queue(self) -> QueueName:
        return QueueName(self.model, self.tier)

    @property
    def logged(self) -> bool:
        """Whether it is generated as a stream into its log, whatever shape the client asked for; otherwise the engine
        is asked for the whole completion at once, and only the ending is written. A flex job may be put back at any
        time, and goes on from its log.
        """
        return self.mode == "stream" or self.detached or self.tier is Tier.FLEX


ID_PREFIX = "chatcmpl-"


def new_job_id(now: float | None = None) -> str:
    """`chatcmpl-` and 32 hex digits: 48 bits of milliseconds, so that ids sort by age, and 80 random bits."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    return f"{ID_PREFIX}{milliseconds:012x}{os.urandom(10).hex()}"


def born_at(job_id: str) -> float:
    """When the id was made, in Unix seconds."""
    return int(job_id.removeprefix(ID_PREFIX)[:12], 16) / 1000
