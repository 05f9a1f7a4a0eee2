"""The interface of the limiter: counts how much of its limits each API key has used."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from shared.limits import Limits, Verdict


class Limiter(Protocol):
    """Counts the usage of keys with limits, by the rules of limits.py. All replicas share the counts. They start again
    at zero when Redis loses its data or an embedded process restarts.
    """

    async def take(self, key: str, limits: Limits, job_id: str, *, tokens: int, until: float) -> Verdict:
        """Counts one request of an estimated `tokens` if all limits of the key leave room for it; otherwise counts
        nothing. The job is then open until `charge`, and at most until `until` (Unix seconds). Does nothing if the job
        is open already. For a key made by `lines_of`, the request is a line of a batch, and only its tokens count.
        """
        ...

    def charge(self, key: str, job_id: str, *, used: int | None) -> Awaitable[None]:
        """Closes an open job and replaces its estimate by the `used` tokens; None keeps the estimate. The step has
        started when this returns. Does nothing for a job that is not open. The store charges a job with a `limit_key`
        when it ends or is deleted; the API may do so earlier.
        """
        ...

    def refund(self, key: str, job_id: str) -> Awaitable[None]:
        """Removes a request that was counted but not accepted. The step has started when this returns."""
        ...

    async def open_jobs(self, key: str, limit: int, *, skip: int = 0) -> Sequence[str]:
        """Returns the ids of the key's open jobs, nearest deadline first, without the first `skip`."""
        ...
