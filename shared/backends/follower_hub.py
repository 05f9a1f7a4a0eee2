"""All followers in this process, by job. Backends report events to the hub, and the hub notifies the job's followers.

A job may have a thousand readers. To notify all of them at once would block the event loop, so the followers of a job
with more than a few readers are notified in slices, with other work between the slices.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from shared.backends.follower import LogFollower
from shared.job import JobStatus
from shared.ports import Ending

FEW = 4
"""Most followers of one job that are notified at once."""

SLICE = 32
"""Followers of jobs with many followers that are notified per event-loop iteration."""

SLICE_OF_JOB = 8
"""Followers of one such job that are notified before those of another job."""

BACKLOG_LIMIT = 64 * 1024
"""Most bytes of one job that wait for its followers. Beyond that they are dropped, and the followers read the log."""

Event = Callable[[LogFollower], None]


@dataclass(slots=True)
class NewBytes:
    """Live bytes that start at `offset`. Bytes that follow are joined to them while they wait."""

    offset: int
    parts: list[bytes]
    size: int

    def extend(self, offset: int, data: bytes) -> bool:
        """Adds bytes that start where these end. Returns whether they did."""
        if offset != self.offset + self.size:
            return False
        self.parts.append(data)
        self.size += len(data)
        return True

    def __call__(self, follower: LogFollower) -> None:
        if len(self.parts) > 1:
            self.parts = [b"".join(self.parts)]
        follower.deliver(self.offset, self.parts[0])


def distrust(follower: LogFollower) -> None:
    follower.distrust()


class Backlog:
    """One job's events of which not all of its followers have been notified."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._current: Event | None = None
        self._remaining: list[LogFollower] = []
        self._bytes = 0

    @property
    def empty(self) -> bool:
        return self._current is None and not self._waiting

    def add(self, event: Event) -> None:
        self._waiting.append(event)

    def add_bytes(self, offset: int, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > BACKLOG_LIMIT:
            self.distrust()
            return
        last = self._waiting[-1] if self._waiting else None
        if not (isinstance(last, NewBytes) and last.extend(offset, data)):
            self.add(NewBytes(offset, [data], len(data)))

    def distrust(self) -> None:
        """Drops the waiting events and makes the followers read the log, which contains all of them."""
        self._waiting.clear()
        self._bytes = 0
        self.add(distrust)

    def notify(self, followers: list[LogFollower], most: int) -> int:
        """Notifies up to `most` followers of the next event, and returns their number. `followers`: all of the
        job's.
        """
        if self._current is None:
            self._current = event = self._waiting.popleft()
            self._remaining = followers[::-1]
            self._bytes -= event.size if isinstance(event, NewBytes) else 0
        notified = 0
        while self._remaining and notified < most:
            self._current(self._remaining.pop())
            notified += 1
        if not self._remaining:
            self._current = None
        return notified


class FollowerHub:
    def __init__(self) -> None:
        self._followers: defaultdict[str, list[LogFollower]] = defaultdict(list)
        self._backlogs: OrderedDict[str, Backlog] = OrderedDict()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._followers

    def __len__(self) -> int:
        return sum(map(len, self._followers.values()))

    @contextmanager
    def following(self, follower: LogFollower) -> Generator[LogFollower]:
        """Notifies `follower` of its job's events while inside. A reader that still waits on exit gets
        FollowerClosed.
        """
        self.add(follower)
        try:
            yield follower
        finally:
            follower.close()
            self.remove(follower)

    def add(self, follower: LogFollower) -> None:
        self._followers[follower.job_id].append(follower)

    def remove(self, follower: LogFollower) -> None:
        """Removes `follower`, and its job if it was the job's last follower here."""
        here = self._followers[follower.job_id]
        here.remove(follower)
        if not here:
            del self._followers[follower.job_id]
            self._backlogs.pop(follower.job_id, None)

    def deliver(self, job_id: str, offset: int, data: bytes) -> None:
        followers = self._followers.get(job_id, ())
        if self._at_once(job_id, len(followers)):
            for follower in followers:
                follower.deliver(offset, data)
        else:
            self._backlog(job_id).add_bytes(offset, data)

    def move(self, job_id: str, status: JobStatus) -> None:
        self._notify(job_id, lambda follower: follower.move(status))

    def end(self, job_id: str, size: int, ending: Ending) -> None:
        self._notify(job_id, lambda follower: follower.end(size, ending))

    def distrust_all(self) -> None:
        """Makes every follower read its log, because the live path broke."""
        for job_id in self._followers:
            self._notify(job_id, distrust)

    def _notify(self, job_id: str, event: Event) -> None:
        followers = self._followers.get(job_id, ())
        if self._at_once(job_id, len(followers)):
            for follower in followers:
                event(follower)
        else:
            self._backlog(job_id).add(event)

    def _at_once(self, job_id: str, followers: int) -> bool:
        return followers <= FEW and job_id not in self._backlogs

    def _backlog(self, job_id: str) -> Backlog:
        if not self._backlogs:
            asyncio.get_running_loop().call_soon(self._notify_slice)
        return self._backlogs.setdefault(job_id, Backlog())

    def _notify_slice(self) -> None:
        left = SLICE
        while left > 0 and self._backlogs:
            job_id, backlog = self._backlogs.popitem(last=False)
            left -= max(1, backlog.notify(self._followers[job_id], min(left, SLICE_OF_JOB)))
            if not backlog.empty:
                self._backlogs[job_id] = backlog
        if self._backlogs:
            asyncio.get_running_loop().call_soon(self._notify_slice)
