"""The waiting messages of the embedded queue, as they are kept in memory."""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass

from shared.job import QueueName

Key = QueueName | None
"""None: the dead letters."""


@dataclass(slots=True, eq=False)
class Entry:
    """A message that is not acknowledged yet. A dead letter has no deadline. `served`: the other job that last ran
    under it, if any.
    """

    seq: int
    key: Key
    visible_at: float
    deadline_at: float
    redelivered: bool = True
    served: str | None = None
    timer: asyncio.TimerHandle | None = None

    def set_timer(self, timer: asyncio.TimerHandle | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = timer


class WaitingEntries:
    """The waiting entries of one queue, oldest first. `arriving`: publishes that are not committed yet."""

    def __init__(self) -> None:
        self._order: list[int] = []
        self._waiting: dict[int, Entry] = {}
        self.arriving = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry) -> None:
        if entry.seq not in self._waiting:
            self._waiting[entry.seq] = entry
            heapq.heappush(self._order, entry.seq)

    def remove(self, entry: Entry) -> None:
        self._waiting.pop(entry.seq, None)

    def take(self) -> Entry | None:
        while self._order:
            entry = self._waiting.pop(heapq.heappop(self._order), None)
            if entry is not None:
                return entry
        return None
