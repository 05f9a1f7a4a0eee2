"""The embedded backend's queue. The database stores the messages; which consumer holds which message is known in memory
only.

So a message that was not acknowledged when the process died waits again after the next start. There is no polling: each
message has a timer for the moment at which it becomes visible or its deadline passes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from cachetools import FIFOCache

from shared.backends.embedded.consumer import EmbeddedConsumer
from shared.backends.embedded.database import messages
from shared.backends.embedded.database.connection import Database
from shared.backends.embedded.database.transactions import Connection
from shared.backends.embedded.entries import Entry, Key, WaitingEntries
from shared.errors import QueueFull
from shared.job import QueueName
from shared.ports import Consumer, Fate, Message, Undecodable

RECENT = 64
"""Most messages that are kept in memory after their publish, so that a consumer need not read them from the
database.
"""

DEAD_LETTER_RETRY_AFTER = 5.0
DEAD_LETTERS_PREFETCH = 16

log = structlog.get_logger(__name__)


class EmbeddedQueue:
    def __init__(self, database: Database, queue_limit: int) -> None:
        self._database = database
        self._queue_limit = queue_limit
        self._loop = asyncio.get_running_loop()
        self._waiting: defaultdict[Key, WaitingEntries] = defaultdict(WaitingEntries)
        self._consumers: set[EmbeddedConsumer] = set()
        self._recent: FIFOCache[int, Message] = FIFOCache(RECENT)
        self._closed = False

    async def load(self) -> None:
        """Enqueues the messages of an earlier process."""
        for stored in await self._database.run(messages.load_all):
            self.enqueue(Entry(*stored))

    async def publish(self, message: Message) -> None:
        entries = self._waiting[message.job.queue]
        if len(entries) + entries.arriving >= self._queue_limit:
            raise QueueFull(f"The queue for model '{message.job.model}' is full.")
        entries.arriving += 1
        added = self._database.run(
            lambda db: messages.add(db, message), after=partial(self._published, message), durable=True
        )
        added.add_done_callback(lambda _: self._arrived(entries))
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
        """Returns nothing: only this process writes messages, so all can be decoded."""
        del decide, limit
        return ()

    def waiting(self, key: Key) -> int:
        return len(self._waiting[key]) if key in self._waiting else 0

    def close(self) -> None:
        """Stops all timers. Consumers that wait for a delivery get BackendUnavailable."""
        self._closed = True
        for entries in self._waiting.values():
            while (entry := entries.take()) is not None:
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
            consumer.release_all()

    def _published(self, message: Message, seq: int) -> None:
        self._recent[seq] = message
        self.enqueue(Entry(seq, message.job.queue, 0.0, message.job.deadline_at, redelivered=False))

    @staticmethod
    def _arrived(entries: WaitingEntries) -> None:
        entries.arriving -= 1

    # ── what waits ──

    def enqueue(self, entry: Entry) -> None:
        """Enqueues an entry that no consumer holds: as a dead letter, behind a timer, or as a waiting message."""
        now = time.time()
        if self._closed:
            return
        if entry.deadline_at <= now:
            self._make_dead_letter(entry)
        elif entry.visible_at > now:
            self._ring(entry, min(entry.visible_at, entry.deadline_at) - now)
        else:
            if entry.deadline_at < math.inf:
                self._ring(entry, entry.deadline_at - now)
            self._waiting[entry.key].add(entry)
            self._wake(entry.key)

    def take(self, key: Key) -> Entry | None:
        """Takes the oldest waiting entry whose deadline has not passed, and stops its timer."""
        entries = self._waiting.get(key)
        while entries is not None and (entry := entries.take()) is not None:
            if entry.deadline_at > time.time():
                entry.set_timer(None)
                return entry
            self._make_dead_letter(entry)
        return None

    async def message(self, entry: Entry) -> Message | None:
        message = self._recent.pop(entry.seq, None)
        return message or await self._database.run(lambda db: messages.read(db, entry.seq))

    @property
    def closed(self) -> bool:
        return self._closed

    def _ring(self, entry: Entry, delay: float) -> None:
        entry.set_timer(self._loop.call_later(delay, self._rung, entry))

    def _rung(self, entry: Entry) -> None:
        self._waiting[entry.key].remove(entry)
        self.enqueue(entry)

    def _wake(self, key: Key) -> None:
        for consumer in self._consumers:
            if key in consumer.keys:
                consumer.wake()

    def _make_dead_letter(self, entry: Entry) -> None:
        """Makes a dead letter of a message whose deadline has passed."""
        entry.set_timer(None)
        writing = self._database.run(
            lambda db: messages.make_dead_letter(db, entry.seq), after=lambda _: self._became_dead_letter(entry)
        )
        writing.add_done_callback(partial(self._retry_dead_letter, entry))

    def _retry_dead_letter(self, entry: Entry, writing: asyncio.Future[None]) -> None:
        if (error := writing.exception()) is not None and not self._closed:
            log.warning("dead_letter.not_written", error=str(error), next="trying again")
            self._ring(entry, DEAD_LETTER_RETRY_AFTER)

    def _became_dead_letter(self, entry: Entry) -> None:
        self._recent.pop(entry.seq, None)
        self.enqueue(Entry(entry.seq, None, 0.0, math.inf))

    # ── acks and requeues ──

    async def forget(self, entry: Entry) -> None:
        await self._commit(entry, lambda db: messages.remove(db, entry.seq), lambda: self._drop(entry))

    async def postpone(self, entry: Entry, after: float) -> None:
        if after <= 0:
            entry.redelivered = True
            self.enqueue(entry)
            return
        later = Entry(entry.seq, entry.key, time.time() + after, entry.deadline_at)
        await self._commit(
            entry, lambda db: messages.postpone(db, entry.seq, later.visible_at), lambda: self.enqueue(later)
        )

    async def _commit(self, entry: Entry, step: Callable[[Connection], None], then: Callable[[], None]) -> None:
        """Commits `step`; if it fails, the message waits again. A cancelled caller does not interrupt it."""
        commit = self._database.run(step, after=lambda _: then())
        commit.add_done_callback(partial(self._enqueue_if_failed, entry))
        await asyncio.shield(commit)

    def _enqueue_if_failed(self, entry: Entry, commit: asyncio.Future[Any]) -> None:
        if commit.exception() is not None:
            self.enqueue(entry)

    def _drop(self, entry: Entry) -> None:
        """Removes an acknowledged entry. It may wait again, if the ack seemed to fail and took place later."""
        entry.set_timer(None)
        self._waiting[entry.key].remove(entry)
