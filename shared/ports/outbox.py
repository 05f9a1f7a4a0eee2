"""Jobs whose end somebody is to be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


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
