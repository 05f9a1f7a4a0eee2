"""A job, and the table of its statuses and transitions.

Theory. An accepted *request* is a *job*. Its id is the id of the completion, and stays the same over all *attempts*. A
job is always in exactly one status. The statuses in `TERMINAL` are final, unless somebody retries the job by hand. Each
transition is one *event* of the table below, which a store applies atomically. An event that the table does not list
for the present status is illegal: it raises (or a store refuses it) and changes nothing. Attempts are numbered from 1,
and the number is the *fencing token*: a worker that lost its claim has an old number, so its writes are refused. If a
store has lost a record and writes it again, the attempts are numbered in a new epoch, so that no token is issued twice.

    queued ──claim──▶ in_progress ──complete | fail | cancel | expire──▶ (terminal)
      ▲ │                │    ▲ │
      │ └─ fail|cancel|  │    └─┘ claim: takeover of a lost attempt
      │    expire        │
      └──── release ─────┘  interrupted (drained: not counted as a try) or to be tried again (counted)

    failed ──retry──▶ queued: by hand, under the same id, with a new log and no tries

A takeover counts as a try only if the lost attempt had appended nothing to the log. Then the job itself may have killed
its worker. If the attempt had appended something, the job was making progress, and the worker probably died for another
reason. A job that has lost too many workers in a row without progress (two, by default) is quarantined: it fails, and
an operator can look at it and retry it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from shared.schema import CallApi


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
    """The table does not list the event for the job's present status."""


def advance(status: JobStatus, event: JobEvent) -> JobStatus:
    """Returns the status after `event`. Raises IllegalTransition."""
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise IllegalTransition(f"a job that is {status} cannot {event}") from None


def sources(event: JobEvent) -> tuple[JobStatus, ...]:
    """Returns the statuses in which `event` is legal. A store's atomic step checks them."""
    return tuple(status for status, possible in TRANSITIONS if possible is event)


ENDINGS: Mapping[JobStatus, JobEvent] = {
    JobStatus.COMPLETED: JobEvent.COMPLETE,
    JobStatus.FAILED: JobEvent.FAIL,
    JobStatus.CANCELLED: JobEvent.CANCEL,
    JobStatus.EXPIRED: JobEvent.EXPIRE,
}


class Tier(StrEnum):
    """OpenAI's `service_tier`. Workers take jobs of the first listed tier first."""

    PRIORITY = "priority"
    DEFAULT = "default"
    FLEX = "flex"


Mode = Literal["unary", "stream"]

Api = Literal["chat", "responses", CallApi]
"""The API that a job was made by. The request of a response is kept as a chat request; the other jobs keep the request
of their own endpoint, and their engine answers it with one JSON object.
"""

CHAT_APIS = frozenset[Api]({"chat", "responses"})


@dataclass(frozen=True, slots=True)
class QueueName:
    """The name of a queue: there is one for each model and tier."""

    model: str
    tier: Tier

    def __str__(self) -> str:
        return f"{self.model}.{self.tier}"


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's key for a request, so that a repeated request creates no second job. `name`: the key's hash;
    `fingerprint`: the request's hash; `kept`: seconds for which the key is stored.
    """

    name: str
    fingerprint: str
    kept: float = 86_400.0


@dataclass(slots=True)
class Job:
    """A job's record. Times are Unix seconds; `result` is the `chat.completion`, or the answer of another endpoint, as
    JSON bytes.

    `attempt` counts every claim; `tries` counts attempts that failed, or lost their worker before they had appended
    anything. `tokens`: an estimate of the tokens of prompt and answer; `weight`: the tenant's share relative to others.
    `window_end`: the end of the window that the client gave (a batch's, or the job's own deadline), which orders the
    job among its tenant's; `stored`: the client's `store: true`, and of a response its `store`, which is
    true by default; `detached`: the job runs on when the client disconnects; `webhook_url`: receives an event when the
    job ends; `limit_key`: the id of the key whose limits count the job until then; `made_with`: the id of the stored
    key that sent the request; `request_id`: the `x-request-id` of the call that created the job, for the logs.
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
    window_end: float | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    idempotency_key: IdempotencyKey | None = None
    webhook_url: str | None = None
    limit_key: str | None = None
    made_with: str | None = None
    request_id: str | None = None
    api: Api = "chat"
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
    def chats(self) -> bool:
        """Whether its request is a chat request, which the engine answers with a message."""
        return self.api in CHAT_APIS

    @property
    def endpoint(self) -> str:
        """The endpoint whose request it has, as the job object names it."""
        return "chat.completions" if self.api == "chat" else self.api

    @property
    def stored_completion(self) -> bool:
        """Whether it is listed among the stored chat completions."""
        return self.stored and self.api == "chat"

    @property
    def keeps_request(self) -> bool:
        """Whether its request is kept for as long as its record, however it ends; that of a failed job always is."""
        return self.detached or self.stored

    @property
    def logged(self) -> bool:
        """Whether the engine generates a stream into the job's log, even if the client did not ask for a stream.
        Otherwise the engine returns the whole completion, and only the ending is written. Flex jobs are logged because
        they may be put back at any time, and then continue from their log. Only chat is generated piece by piece.
        """
        if not self.chats:
            return False
        return self.mode == "stream" or self.detached or self.tier is Tier.FLEX


ID_PREFIX = "chatcmpl-"


def new_job_id(now: float | None = None) -> str:
    """Returns `chatcmpl-` and 32 hex digits: 48 bits of milliseconds, so that ids sort by age, and 80 random bits."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    return f"{ID_PREFIX}{milliseconds:012x}{os.urandom(10).hex()}"


def born_at(job_id: str) -> float:
    """Returns the time at which the id was made, in Unix seconds."""
    return int(job_id.removeprefix(ID_PREFIX)[:12], 16) / 1000
