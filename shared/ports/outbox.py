"""The interface of the outbox: jobs whose webhook is still to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Notice:
    """A job of the outbox that one sender handles until `held_until` (Unix seconds)."""

    job_id: str
    held_until: float


class Outbox(Protocol):
    """Holds the jobs with a `webhook_url`, from their creation or retry until `forget`. So a process that dies between
    a job's end and the webhook loses no webhook. A job is due when it has ended. It also becomes due repeatedly while
    it has not ended, because the note of its end may be lost.
    """

    async def take(self, limit: int, hold: float) -> Sequence[Notice]:
        """Takes up to `limit` jobs that are due. No other sender gets them for `hold` seconds."""
        ...

    async def put_back(self, notice: Notice, after: float) -> None:
        """Makes the job due again in `after` seconds. Does nothing if the job has ended since it was taken, or if
        another sender has taken it.
        """
        ...

    async def forget(self, notice: Notice) -> None:
        """Removes the job. Does nothing if the job has ended since it was taken, or if another sender has taken it."""
        ...
