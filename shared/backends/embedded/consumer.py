"""Consumes the embedded queue. Which consumer holds which delivery is known in memory only."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from shared.backends.embedded.entries import Entry, Key
from shared.errors import BackendUnavailable, BrokerUnavailable
from shared.job import QueueName
from shared.ports import Choose, Delivery, Message

log = structlog.get_logger(__name__)

TRY_AGAIN = 1.0
"""Seconds after which a failed read of a message is repeated."""


class EntryStore(Protocol):
    """The part of the queue that a consumer uses."""

    @property
    def closed(self) -> bool: ...

    def waiting(self, key: Key) -> int: ...

    def take(self, key: Key) -> Entry | None: ...

    def enqueue(self, entry: Entry) -> None: ...

    async def message(self, entry: Entry) -> Message | None: ...

    async def forget(self, entry: Entry) -> None: ...

    async def postpone(self, entry: Entry, after: float) -> None: ...


class EmbeddedConsumer:
    """`prefetch`: most deliveries of each queue that it may hold."""

    def __init__(self, queue: EntryStore, prefetch: Mapping[Key, int]) -> None:
        self._queue = queue
        self._prefetch = dict(prefetch)
        self._held: dict[int, Entry] = {}
        self._left = False
        self._paused: set[Key] = set()
        self._changed = asyncio.Event()

    async def next(self, choose: Choose | None = None) -> Delivery:
        """While the database is unavailable, it waits and reads again."""
        while True:
            entry = await self._next_entry(choose)
            try:
                message = await self._queue.message(entry)
            except BackendUnavailable as error:
                if self.release(entry):
                    self._queue.enqueue(entry)
                if self._queue.closed:
                    raise
                log.warning("delivery.not_read", error=str(error), next=f"trying again in {TRY_AGAIN:.0f} s")
                await asyncio.sleep(TRY_AGAIN)
                continue
            except BaseException:
                if self.release(entry):
                    self._queue.enqueue(entry)
                raise
            if message is not None:
                return EmbeddedDelivery(self._queue, self, entry, message=message)
            self.release(entry)  # The message was acknowledged: an ack that seemed to fail has taken place.

    @property
    def keys(self) -> Collection[Key]:
        return self._prefetch.keys()

    def add(self, prefetch: Mapping[QueueName, int]) -> None:
        self._prefetch = {**prefetch, **self._prefetch}
        self.wake()

    def choose_again(self) -> None:
        self.wake()

    async def pause(self, queues: Collection[QueueName] | None = None) -> None:
        """Requeues nothing: this consumer takes no delivery before `next` is called."""
        self._paused.update(self.keys if queues is None else queues)

    async def resume(self, queues: Collection[QueueName] | None = None) -> None:
        self._paused.difference_update(self.keys if queues is None else queues)
        self.wake()

    async def _next_entry(self, choose: Choose | None) -> Entry:
        while (entry := self._take(choose)) is None:
            self._changed.clear()
            await self._changed.wait()
        return entry

    def _take(self, choose: Choose | None) -> Entry | None:
        if self._queue.closed or self._left:
            raise BrokerUnavailable("The queue is closed.")
        while available := self._available():
            key = next(iter(available)) if choose is None else choose(available)
            if choose is not None and key is None:
                return None
            if (entry := self._queue.take(key)) is not None:
                self._held[entry.seq] = entry
                return entry
        return None

    def _available(self) -> dict[Any, int]:
        """Returns how many entries of each queue this consumer may take."""
        open_keys = (key for key in self.keys if key not in self._paused)
        counts = ((key, (waiting := self._queue.waiting(key)) and min(waiting, self._room(key))) for key in open_keys)
        return {key: count for key, count in counts if count > 0}

    def _room(self, key: Key) -> int:
        return self._prefetch[key] - sum(entry.key == key for entry in self._held.values())

    def wake(self) -> None:
        self._changed.set()

    def release(self, entry: Entry) -> bool:
        """Gives up an entry; returns whether this consumer held it."""
        self._changed.set()
        return self._held.pop(entry.seq, None) is not None

    def release_all(self) -> None:
        self._left = True
        held, self._held = self._held, {}
        for entry in held.values():
            entry.redelivered = True
            self._queue.enqueue(entry)
        self.wake()


@dataclass(slots=True)
class EmbeddedDelivery:
    """A second ack or retry, or one after its consumer was closed, does nothing: another consumer may have the
    message.
    """

    _queue: EntryStore
    _consumer: EmbeddedConsumer
    _entry: Entry
    message: Message

    @property
    def served(self) -> str | None:
        return self._entry.served

    @property
    def redelivered(self) -> bool:
        return self._entry.redelivered

    async def deliver_again(self, served: str) -> None:
        """Requeues the entry. Entries wait by age, so this one is the first again."""
        self._entry.served = served
        await self.retry()

    async def ack(self) -> None:
        if self._consumer.release(self._entry):
            await self._queue.forget(self._entry)

    async def retry(self, after: float = 0.0) -> None:
        if self._consumer.release(self._entry):
            await self._queue.postpone(self._entry, after)
