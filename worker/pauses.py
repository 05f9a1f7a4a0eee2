"""Deliveries that nobody here can start go back to those who can: a queue is held for as long as there is a reason."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection

from shared.job import QueueName
from shared.ports import Consumer

FULL_PATIENCE = 1.0
"""Seconds for which a worker without a slot for a tier keeps deliveries of it; then others may have them."""


class Pauses:
    """`group` owns the tasks that pause and resume. After `close` nothing changes any more."""

    def __init__(self, consumer: Consumer, group: asyncio.TaskGroup) -> None:
        self._consumer = consumer
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._reasons: defaultdict[QueueName, set[str]] = defaultdict(set)
        self._timers: dict[QueueName, asyncio.TimerHandle] = {}
        self._closed = False

    def full(self, queue: QueueName, full: bool) -> None:
        """Whether there is no slot for the queue's jobs, nor will one come free soon."""
        if full and queue not in self._timers and not self._closed:
            self._timers[queue] = self._loop.call_later(FULL_PATIENCE, self._overfull, queue)
        elif not full and (timer := self._timers.pop(queue, None)) is not None:
            timer.cancel()
            if "full" in self._reasons[queue]:
                self.go_on("full", [queue])

    async def hold(self, reason: str, queues: Collection[QueueName]) -> None:
        for queue in queues:
            self._reasons[queue].add(reason)
        await self._consumer.pause(queues)

    def go_on(self, reason: str, queues: Collection[QueueName]) -> None:
        for queue in queues:
            self._reasons[queue].discard(reason)
        resumed = [queue for queue in queues if not self._reasons[queue]]
        if resumed and not self._closed:
            self._group.create_task(self._consumer.resume(resumed), name="resume")

    def close(self) -> None:
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()

    def _overfull(self, queue: QueueName) -> None:
        """What is asked of a queue is done in the order of asking: the reason stands before its task begins."""
        self._reasons[queue].add("full")
        self._group.create_task(self._consumer.pause([queue]), name="pause")
