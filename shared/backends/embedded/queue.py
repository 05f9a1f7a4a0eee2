"""The embedded backend's queue. The database holds the messages; who holds which of them is known in memory only.

So a message that was not settled when the process died is simply waiting again at the next start. Nothing polls:
a message's own timer rings when it becomes visible or when its deadline passes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog

from shared.backends.embedded.consumer import EmbeddedConsumer
from shared.backends.embedded.database import messages
from shared.backends.embedded.database.connection import Connection, Database
from shared.backends.embedded.entries import Entry, Key, Line
from shared.errors import QueueFull
from shared.job import QueueName
from shared.ports import Consumer, Fate, Message, Undecodable

AT_HAND = 64
"""Messages just published that are kept in memory, so that a waiting consumer need not read them back."""

BURY_RETRY_AFTER = 5.0
DEAD_LETTERS_PREFETCH = 16

log = structlog.get_logger(__name__)


class EmbeddedQueue:
    def __init__(self, database: Database, queue_limit: int) -> None:
        self._database = database
        self._queue_limit = queue_limit
        self._loop = asyncio.get_running_loop()
        self._lines: defaultdict[Key, Line] = defaultdict(Line)
        self._consumers: set[EmbeddedConsumer] = set()
        self._at_hand: OrderedDict[int, Message] = OrderedDict()
        self._closed = False

    async def load(self) -> None:
        """What an earlier process left."""
        for stored in await self._database.run(messages.load_all):
            self.place(Entry(*stored))

    async def publish(self, message: Message) -> None:
        line = self._lines[message.job.queue]
        if len(line) + line.arriving >= self._queue_limit:
            raise QueueFull(f"The queue for model '{message.job.model}' is full.")
        line.arriving += 1
        added = self._database.run(
            lambda db: messages.add(db, message), after=partial(self._published, message), durable=True
        )
        added.add_done_callback(lambda _: self._arrived(line))
        await asyncio.shield(added)

    @asynccontextmanager
    async def consume(self, queues: Sequence[QueueName], prefetch: int | Sequence[int]) -> AsyncGenerator[Consumer]:
        each = [prefetch] * len(queues) if isinstance(prefetch, int) else prefetch
        async with self._consume(dict(zip(queues, each, strict=True))) as consumer:
            yield consumer

    @asynccontextmanager
    async def dead_letters(self) -> AsyncGenerator[Consumer]:
        async with self._consume({None: DEAD_LETTERS_PREFETCH}) as consumer:
            yield consumer

    async def undecodable(self, decide: Callable[[Undecodable], Fate], limit: int) -> Sequence[Undecodable]:
        """Nobody but this process writes messages here."""
        del decide, limit
        return ()

    def waiting(self, key: Key) -> int:
        return len(self._lines[key]) if key in self._lines else 0

    def close(self) -> None:
        """Stop all timers; whoever waits for a delivery gets BackendUnavailable."""
        self._closed = True
        for line in self._lines.values():
            while (entry := line.take()) is not None:
                entry.set_timer(None)
        for consumer in self._consumers:
            consumer.wake()

    @asynccontextmanager
    async def _consume(self, prefetch: Mapping[Any, int]) -> AsyncGenerator[EmbeddedConsumer]:
        consumer = EmbeddedConsumer(self, prefetch)
        self._consumers.add(consumer)
        try:
            yield consumer
        finally:
            self._consumers.remove(consumer)
            consumer.give_back()

    def _published(self, message: Message, seq: int) -> None:
        self._at_hand[seq] = message
        if len(self._at_hand) > AT_HAND:
            self._at_hand.popitem(last=False)
        self.place(Entry(seq, message.job.queue, 0.0, message.job.deadline_at, redelivered=False))

    @staticmethod
    def _arrived(line: Line) -> None:
        line.arriving -= 1

    # ── what waits ──

    def place(self, entry: Entry) -> None:
        """Where an entry that nobody holds belongs now: among the dead, behind a timer, or in its line."""
        now = time.time()
        if self._closed:
            return
        if entry.deadline_at <= now:
            self._bury(entry)
        elif entry.visible_at > now:
            self._ring(entry, min(entry.visible_at, entry.deadline_at) - now)
        else:
            if entry.deadline_at < math.inf:
                self._ring(entry, entry.deadline_at - now)
            self._lines[entry.key].add(entry)
            self._wake(entry.key)

    def take(self, key: Key) -> Entry | None:
        """The oldest that waits and is still in time; from now on its timer means nothing."""
        line = self._lines.get(key)
        while line is not None and (entry := line.take()) is not None:
            if entry.deadline_at > time.time():
                entry.set_timer(None)
                return entry
            self._bury(entry)
        return None

    async def message(self, entry: Entry) -> Message | None:
        message = self._at_hand.pop(entry.seq, None)
        return message or await self._database.run(lambda db: messages.read(db, entry.seq))

    @property
    def closed(self) -> bool:
        return self._closed

    def _ring(self, entry: Entry, delay: float) -> None:
        entry.set_timer(self._loop.call_later(delay, self._rung, entry))

    def _rung(self, entry: Entry) -> None:
        self._lines[entry.key].remove(entry)
        self.place(entry)

    def _wake(self, key: Key) -> None:
        for consumer in self._consumers:
            if key in consumer.keys:
                consumer.wake()

    def _bury(self, entry: Entry) -> None:
        """Make a dead letter of a message whose deadline has passed."""
        entry.set_timer(None)
        burial = self._database.run(lambda db: messages.bury(db, entry.seq), after=lambda _: self._buried(entry))
        burial.add_done_callback(partial(self._bury_again, entry))

    def _bury_again(self, entry: Entry, burial: asyncio.Future[None]) -> None:
        if (error := burial.exception()) is not None and not self._closed:
            log.warning("dead_letter.not_written", error=str(error), next="trying again")
            self._ring(entry, BURY_RETRY_AFTER)

    def _buried(self, entry: Entry) -> None:
        self._at_hand.pop(entry.seq, None)
        self.place(Entry(entry.seq, None, 0.0, math.inf))

    # ── settling ──

    async def forget(self, entry: Entry) -> None:
        await self._settle(entry, lambda db: messages.remove(db, entry.seq), lambda: self._drop(entry))

    async def postpone(self, entry: Entry, after: float) -> None:
        if after <= 0:
            entry.redelivered = True
            self.place(entry)
            return
        later = Entry(entry.seq, entry.key, time.time() + after, entry.deadline_at)
        await self._settle(
            entry, lambda db: messages.postpone(db, entry.seq, later.visible_at), lambda: self.place(later)
        )

    async def _settle(self, entry: Entry, step: Callable[[Connection], None], then: Callable[[], None]) -> None:
        """If the step fails the message waits again. Shielded: what was begun is seen through."""
        settling = self._database.run(step, after=lambda _: then())
        settling.add_done_callback(partial(self._unsettled, entry))
        await asyncio.shield(settling)

    def _unsettled(self, entry: Entry, settling: asyncio.Future[Any]) -> None:
        if settling.exception() is not None:
            self.place(entry)

    def _drop(self, entry: Entry) -> None:
        """Also takes it out of its line, where a step that was given up for lost had put it."""
        entry.set_timer(None)
        self._lines[entry.key].remove(entry)
