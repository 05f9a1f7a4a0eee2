"""The interface of the job log, and of its followers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from shared.job import JobStatus


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended. `frames`: the last bytes of its log; `result`: its chat.completion as JSON."""

    status: JobStatus
    frames: bytes = b""
    result: bytes | None = None
    usage: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """The next bytes of a log, the job's status, and its ending if it is over.

    The frames of `ending` are part of `data`. `ending.result` is set for unary jobs only, whose caller waits for it,
    and not if it is too large for a live message; the store has the result in any case.
    """

    data: bytes
    status: JobStatus
    ending: Ending | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of an engine's own record of a running answer, such as the ids of its tokens, with which an engine can
    continue the answer exactly. `offset`: where they begin in the record; at 0 they replace it.
    """

    offset: int
    data: bytes


Sink = Callable[[bytes], bool]
"""Receives bytes of a log as they arrive, and never raises. Returns False if it took them but has no room for more."""


class Follower(Protocol):
    async def next(self, timeout: float | None = None, sink: Sink | None = None) -> Update | None:
        """Returns everything that has arrived since the last call. If nothing has, it waits, and returns None after
        `timeout` seconds without news.

        With a `sink`, bytes that arrive during the wait go to the sink at once, and the wait goes on. It ends on any
        other news, or with an empty update when the sink is full.

        Every byte of the log is delivered exactly once and in order, even if live messages are lost. No update follows
        an update with an ending. After a timeout, the next call reads the log first, because the live path may have
        failed silently. Raises Gone if the job's data has expired, LogLost if the store has lost bytes that this
        follower has delivered, BackendUnavailable if the log cannot be read.
        """
        ...

    def close(self) -> None:
        """Ends the follower, from any task of the loop. A waiting `next` raises FollowerClosed."""
        ...


class FollowerClosed(Exception):
    """The follower was closed."""


class JobLog(Protocol):
    """Stores each job's append-only bytes, which are ready SSE frames. Positions are byte offsets."""

    def append(
        self, job_id: str, attempt: int, offset: int, frames: bytes, progress: Progress | None = None
    ) -> Awaitable[None]:
        """Appends `frames` at `offset`, with their `progress`, in one atomic step and wakes the followers. The step has
        started when this returns, so the caller needs no task for it. Appends of one event-loop iteration share a round
        trip.

        A repeated append does nothing. Raises AttemptFenced if `attempt` is not the one that runs the job, LogShorter
        if `offset` is beyond the log's end.
        """
        ...

    async def reserve(self, job_id: str, attempt: int, size: int) -> None:
        """Reserves storage for a log of `size` bytes in total, before the log outgrows its reservation: see
        shared/quota.py. May be repeated. Raises AttemptFenced, and StorageQuotaExceeded if the tenant's quota is used
        up.
        """
        ...

    def follow(
        self, job_id: str, offset: int = 0, *, created_here: bool = False
    ) -> AbstractAsyncContextManager[Follower]:
        """Follows the log from `offset`: first what is stored, then live. `created_here`: this replica is about to
        create the job with `create(…, followed=True)`, so there is nothing to read first.
        """
        ...

    async def followed(self, job_id: str) -> bool:
        """Whether a living replica follows the job. A replica counts as living while its state is not known."""
        ...

    async def read(self, job_id: str, offset: int = 0) -> bytes:
        """Returns the bytes of the log from `offset` to its present end."""
        ...

    async def read_progress(self, job_id: str) -> bytes:
        """Returns the progress of a running job; empty where there is none, or the job has ended."""
        ...
