"""Consumes queues. Each queue has a channel and a task of its own, so a fault of one does not delay the others."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, cast

import structlog
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel as RawChannel

from shared.backends.envelope import decode_envelope
from shared.backends.rabbitmq.connection import (
    FAILURES,
    SETUP_TIMEOUT,
    Channel,
    Connection,
    Link,
    close_channel,
    lost_is_no_cancellation,
    unavailable,
)
from shared.backends.rabbitmq.gathered import GatheredFrames, gather_frames
from shared.backends.rabbitmq.publisher import Publisher, delayed
from shared.backends.rabbitmq.topology import UNDECODABLE
from shared.backends.rabbitmq.undecodable import set_aside
from shared.errors import BackendUnavailable, sentence
from shared.job import QueueName
from shared.ports import Choose, Delivery, Message

log = structlog.get_logger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Seconds between tries to consume a lost queue again."""

START_AGAIN = 0.5
"""Seconds after which a start that failed for all queues is repeated once."""

GATHER = 0.002
"""Seconds between two writes, so that acknowledgements are sent together."""

PAUSE_TIMEOUT = 2.0
"""Seconds to wait for the broker's answer when consuming stops: a worker must stop even if the broker is dead."""

Key = QueueName | None
"""None: the dead letters."""

Declare = Callable[[Key, Connection], Awaitable[str]]
"""Declares a queue, and returns its name."""


class RabbitDelivery:
    """`back`: makes the delivery the next one of its queue; returns False if that is not possible."""

    def __init__(
        self,
        message: Message,
        raw: DeliveredMessage,
        publisher: Publisher,
        back: Callable[[RabbitDelivery], bool],
    ) -> None:
        self.message = message
        self.served: str | None = None
        self._raw = raw
        self._tag = tag_of(raw)
        self._publisher = publisher
        self._back = back

    @property
    def redelivered(self) -> bool:
        return bool(self._raw.redelivered)

    async def deliver_again(self, served: str) -> None:
        self.served = served
        if not self._back(self):
            await self.retry()

    async def ack(self) -> None:
        await self._send(self._raw.channel.basic_ack(self._tag, wait=False))

    async def retry(self, after: float = 0.0) -> None:
        if after <= 0:
            await self._send(self._raw.channel.basic_nack(self._tag, requeue=True))
            return
        await self._publisher.publish(delayed(self.message, after))
        await self.ack()

    async def _send(self, sending: Awaitable[None]) -> None:
        try:
            with lost_is_no_cancellation():
                await sending
        except FAILURES as error:
            log.info("delivery.lost", job=self.message.job.id, error=str(error), next="the broker delivers it again")


def tag_of(raw: DeliveredMessage) -> int:
    assert raw.delivery_tag is not None
    return raw.delivery_tag


def sets(event: asyncio.Event) -> Callable[..., None]:
    def callback(*_: Any) -> None:
        event.set()

    return callback


class QueueChannel:
    """One queue's channel, and its deliveries that `next` has not returned yet, oldest first."""

    def __init__(
        self,
        link: Link,
        publisher: Publisher,
        declare: Callable[[Connection], Awaitable[str]],
        prefetch: int,
        arrived: asyncio.Event,
    ) -> None:
        self._link = link
        self._publisher = publisher
        self._declare = declare
        self._prefetch = prefetch
        self._arrived = arrived
        self._waiting: deque[RabbitDelivery] = deque()
        self._channel: Channel | None = None
        self._frames: GatheredFrames | None = None
        self._name: str | None = None
        self._tag: str | None = None
        self._paused = False
        self._broken = asyncio.Event()
        self._on_close = sets(self._broken)
        self._changing = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> RabbitDelivery:
        return self._waiting.popleft()

    def _requeue_first(self, channel_broken: asyncio.Event, delivery: RabbitDelivery) -> bool:
        """Makes a delivery the next one; returns False if the queue is paused or the delivery's channel is broken."""
        if self._paused or channel_broken.is_set():
            return False
        self._waiting.appendleft(delivery)
        self._arrived.set()
        return True

    async def open(self) -> None:
        """Raises one of FAILURES, or BackendUnavailable."""
        async with asyncio.timeout(SETUP_TIMEOUT), self._changing:
            with lost_is_no_cancellation():
                await self._open()

    async def _open(self) -> None:
        self._waiting, self._tag, broken = deque(), None, asyncio.Event()
        connection = await self._link.connection()
        connection.close_callbacks.discard(self._on_close)
        self._on_close = sets(broken)
        connection.close_callbacks.add(self._on_close)
        name = await self._declare(connection)
        channel = self._channel = await connection.channel(publisher_confirms=False)
        channel.close_callbacks.add(sets(broken))
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(sets(broken))
        await channel.set_qos(prefetch_count=self._prefetch)
        self._frames = gather_frames(cast(RawChannel, underlay), GATHER)
        self._name, self._broken = name, broken
        await self._consume()

    async def keep(self, *, opened: bool) -> None:
        """Consumes the queue again whenever it is lost, until cancelled."""
        delay = FIRST_DELAY
        while True:
            if opened:
                await self._broken.wait()
                log.warning("rabbitmq.queue_lost", queue=self._name, next="consuming again")
            await close_channel(self._channel)
            try:
                await self.open()
                opened, delay = True, FIRST_DELAY
            except (*FAILURES, BackendUnavailable) as error:
                log.warning(
                    "rabbitmq.queue_away",
                    queue=self._name,
                    error=sentence(error),
                    next=f"trying again in {delay:.1f} s",
                )
                opened = False
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_DELAY)

    async def pause(self) -> None:
        self._paused = True
        async with self._changing:
            tag, self._tag = self._tag, None
            try:
                async with asyncio.timeout(PAUSE_TIMEOUT):
                    with lost_is_no_cancellation():
                        await self._cancel(tag)
            except FAILURES as error:
                log.info("rabbitmq.queue_lost", error=sentence(error), next="the broker requeues the other deliveries")
            while self._waiting:
                await self._waiting.popleft().retry()

    async def resume(self) -> None:
        self._paused = False
        async with self._changing:
            try:
                async with asyncio.timeout(SETUP_TIMEOUT):
                    with lost_is_no_cancellation():
                        await self._consume()
            except FAILURES as error:
                log.warning("rabbitmq.not_resumed", error=sentence(error), next="opening a new channel")
                self._broken.set()

    async def flush(self) -> None:
        """Sends gathered acknowledgements, before the connection is closed."""
        if self._frames is None or self._broken.is_set():
            return
        try:
            async with asyncio.timeout(PAUSE_TIMEOUT):
                with lost_is_no_cancellation():
                    await self._frames.drain()
        except FAILURES as error:
            log.info(
                "rabbitmq.queue_lost", error=sentence(error), next="the broker delivers unacknowledged messages again"
            )

    async def _cancel(self, tag: str | None) -> None:
        if tag is not None and self._channel is not None:
            await (await self._channel.get_underlay_channel()).basic_cancel(tag)

    async def _consume(self) -> None:
        if self._channel is not None and self._name is not None and self._tag is None and not self._paused:
            # The tag is chosen here, so that `pause` can cancel a consumer whose start was interrupted.
            self._tag = f"ignite-{os.urandom(6).hex()}"
            channel = await self._channel.get_underlay_channel()
            await channel.basic_consume(self._name, self._receive, consumer_tag=self._tag)

    async def _receive(self, raw: DeliveredMessage) -> None:
        try:
            message = decode_envelope(raw.header.properties.headers or {}, raw.body)
        except (KeyError, ValueError, TypeError) as error:
            await self._set_aside(raw, error)
            return
        delivery = RabbitDelivery(message, raw, self._publisher, back=partial(self._requeue_first, self._broken))
        if self._paused:
            await delivery.retry()
        else:
            self._waiting.append(delivery)
            self._arrived.set()

    async def _set_aside(self, raw: DeliveredMessage, error: Exception) -> None:
        log.error("delivery.undecodable", error=repr(error), next=f"set aside in {UNDECODABLE}")
        try:
            await set_aside(self._publisher, raw, repr(error))
            await raw.channel.basic_ack(tag_of(raw))
        except (*FAILURES, BackendUnavailable) as failure:
            # It stays unacknowledged, and uses one delivery of the prefetch until the broker delivers it again.
            log.warning("delivery.not_set_aside", error=sentence(failure), next="the broker delivers it again")


class RabbitConsumer:
    """Consumes several queues, earlier ones first; at most `prefetch` unsettled of each. Owns a connection, and one
    task for each queue.
    """

    def __init__(self, urls: str, publisher: Publisher, declare: Declare, prefetch: Mapping[Any, int]) -> None:
        self._link = Link(urls, "ignite consumer")
        self._publisher = publisher
        self._declare = declare
        self._arrived = asyncio.Event()
        self._by_key: dict[Key, QueueChannel] = {key: self._channel(key, number) for key, number in prefetch.items()}
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> RabbitConsumer:
        """Starts if at least one queue can be consumed. Raises BackendUnavailable."""
        opened = await self._open_all()
        if all(opened):
            # RabbitMQ may fail if many processes declare the same new queues at the same time.
            await asyncio.sleep(START_AGAIN)
            opened = await self._open_all()
        if all(opened) and opened[0] is not None:
            await self._link.close()
            raise translated(opened[0]) from opened[0]
        for channel, failure in zip(self._by_key.values(), opened, strict=True):
            self._keep(channel, opened=failure is None)
        return self

    def add(self, prefetch: Mapping[QueueName, int]) -> None:
        for key, number in prefetch.items():
            if key not in self._by_key:
                channel = self._by_key[key] = self._channel(key, number)
                self._keep(channel, opened=False)

    def _channel(self, key: Key, prefetch: int) -> QueueChannel:
        return QueueChannel(self._link, self._publisher, partial(self._declare, key), prefetch, self._arrived)

    def _keep(self, channel: QueueChannel, *, opened: bool) -> None:
        keeper = asyncio.create_task(channel.keep(opened=opened), name="rabbitmq-queue")
        # If the task dies, a waiting `next` must raise its error.
        keeper.add_done_callback(lambda _: self._arrived.set())
        self._keepers.append(keeper)

    async def _open_all(self) -> list[BaseException | None]:
        """Opens all queues; returns the error of each, or None."""
        return await asyncio.gather(*(channel.open() for channel in self._by_key.values()), return_exceptions=True)

    async def __aexit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(channel.flush() for channel in self._by_key.values()))
        await self._link.close()

    async def next(self, choose: Choose | None = None) -> Delivery:
        while (channel := self._chosen(choose)) is None:
            for keeper in self._keepers:
                if keeper.done():
                    keeper.result()
            self._arrived.clear()
            await self._arrived.wait()
        return channel.take()

    def _chosen(self, choose: Choose | None) -> QueueChannel | None:
        if choose is None:
            return next((channel for channel in self._by_key.values() if channel), None)
        available = {key: len(channel) for key, channel in self._by_key.items() if channel and key is not None}
        key = choose(available) if available else None
        return None if key is None else self._by_key[key]

    def choose_again(self) -> None:
        self._arrived.set()

    async def pause(self, queues: Collection[QueueName] | None = None) -> None:
        await asyncio.gather(*(channel.pause() for channel in self._of(queues)))

    async def resume(self, queues: Collection[QueueName] | None = None) -> None:
        await asyncio.gather(*(channel.resume() for channel in self._of(queues)))

    def _of(self, queues: Collection[QueueName] | None) -> Sequence[QueueChannel]:
        return [*self._by_key.values()] if queues is None else [self._by_key[queue] for queue in queues]


def translated(error: BaseException) -> BaseException:
    return unavailable(error) if isinstance(error, FAILURES) else error
