"""How much of its limits a key has used."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from shared.limits import Limits, Verdict


class Limiter(Protocol):
    """Counts what keys with limits use, by the rules of limits.py, the same for all replicas. A store that forgets, or
    an embedded process that is started anew, begins to count anew.
    """

    async def take(self, key: str, limits: Limits, job_id: str, *, tokens: int, until: float) -> Verdict:
        """Count one request of about `tokens` against the key if all its limits leave room; otherwise nothing. Its job
        counts as open until it is settled, or until `until` (Unix seconds). For a job that is open already this changes
        nothing. A key that `lines_of` has named counts a line of a batch: its tokens alone.
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
