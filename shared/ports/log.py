"""What a job has said, byte for byte, and whoever follows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from shared.job import JobStatus


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

    async def reserve(self, job_id: str, attempt: int, size: int) -> None:
        """Take room for a log of `size` bytes in all, before it outgrows what it has: see shared/quota.py. May be
        repeated. Raises AttemptFenced, and StorageQuotaExceeded where the job's tenant may not keep so much.
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
