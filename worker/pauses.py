"""Pauses queues whose jobs cannot start here, so that other workers get them, for as long as there is a reason."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection

from shared.job import QueueName
from shared.ports import Consumer

FULL_DELAY = 1.0
"""Seconds that a worker without a slot for a tier keeps its deliveries before they go back to the queue."""


class Pauses:
    """`group` owns the tasks that pause and resume. After `close` nothing changes any more."""

    def __init__(self, consumer: Consumer, group: asyncio.TaskGroup) -> None:
        self._consumer = consumer
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._reasons: defaultdict[QueueName, set[str]] = defaultdict(set)
        self._timers: dict[QueueName, asyncio.TimerHandle] = {}
        self._closed = False

    def set_full(self, queue: QueueName, full: bool) -> None:
        """Pauses the queue, after a delay, while it has no slot and none will be free soon; resumes it otherwise."""
        if full and queue not in self._timers and not self._closed:
            self._timers[queue] = self._loop.call_later(FULL_DELAY, self._pause_full, queue)
        elif not full and (timer := self._timers.pop(queue, None)) is not None:
            timer.cancel()
            if "full" in self._reasons[queue]:
                self.resume("full", [queue])

    async def pause(self, reason: str, queues: Collection[QueueName]) -> None:
        for queue in queues:
            self._reasons[queue].add(reason)
        await self._consumer.pause(queues)

    def resume(self, reason: str, queues: Collection[QueueName]) -> None:
        for queue in queues:
            self._reasons[queue].discard(reason)
        resumed = [queue for queue in queues if not self._reasons[queue]]
        if resumed and not self._closed:
            self._group.create_task(self._consumer.resume(resumed), name="resume")

    def close(self) -> None:
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()

    def _pause_full(self, queue: QueueName) -> None:
        """Records the reason before the task begins, so that a `resume` in between sees it."""
        self._reasons[queue].add("full")
        self._group.create_task(self._consumer.pause([queue]), name="pause")
