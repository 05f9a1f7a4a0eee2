"""Publishes with confirms. A queue is declared before the first message is published to it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import aio_pika
import structlog
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError
from aiormq.channel import Channel as RawChannel
from pamqp.commands import Basic

from shared.backends.envelope import encode_envelope
from shared.backends.rabbitmq.confirms import Confirms
from shared.backends.rabbitmq.connection import (
    CONNECT_TIMEOUT,
    FAILURES,
    SETUP_TIMEOUT,
    Channel,
    Link,
    close_channel,
    is_blocked,
    lost_is_no_cancellation,
    unavailable,
    version_of,
)
from shared.backends.rabbitmq.gathered import gather_frames
from shared.backends.rabbitmq.topology import JOBS, Topology, retry_name, routing_key, with_jitter
from shared.errors import BackendUnavailable, BrokerUnavailable, QueueFull
from shared.job import QueueName
from shared.ports import Message

log = structlog.get_logger(__name__)

Properties = Basic.Properties
PERSISTENT = 2

GATHER = 0.001
"""Seconds between two writes, so that the messages of a burst are sent together."""

FULL_FOR = 1.0
"""Seconds for which a queue that was full counts as full at the next refusal, because a check costs a round trip."""

REFUSED_FOR = 1.0
"""Seconds after which a channel is replaced if messages are refused although the queue is not full. A channel that was
opened while a queue had no leader may refuse messages for ever (RabbitMQ 3.10).
"""

Target = QueueName | int | None
"""What must be declared before a publish: the queue of a model and tier, the queue of a delay in ms, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message to publish. `key`: its routing key; `target`: see Target."""

    exchange: str
    key: str
    body: bytes
    properties: Properties
    target: Target


def job_message(message: Message) -> Outgoing:
    """For the job's queue, which drops it at the job's deadline."""
    return Outgoing(
        exchange=JOBS,
        key=routing_key(message.job.queue),
        body=message.body or b"",
        properties=properties_of(message, max(0.0, message.job.deadline_at - time.time())),
        target=message.job.queue,
    )


def delayed(message: Message, seconds: float) -> Outgoing:
    """For a queue from which the message comes back to the job's queue after about that long."""
    delay = with_jitter(seconds)
    return Outgoing(
        exchange=retry_name(delay),
        key=routing_key(message.job.queue),
        body=message.body or b"",
        properties=properties_of(message, None),
        target=delay,
    )


def raw_message(exchange: str, message: aio_pika.Message, key: str) -> Outgoing:
    """For a queue that exists; not a job's message."""
    return Outgoing(exchange=exchange, key=key, body=message.body, properties=message.properties, target=None)


def blocked() -> BackendUnavailable:
    return BrokerUnavailable("The broker (RabbitMQ) is out of memory or disk and accepts no messages.", retry_after=10)


class Publisher:
    """Publishes over one channel with confirms. It is opened when it is needed, and again after it broke."""

    def __init__(self, urls: str, topology: Topology) -> None:
        self._link = Link(urls, "ignite publisher")
        self._topology = topology
        self._channel: Channel | None = None
        self._declared: set[Target] = set()
        self._confirms: defaultdict[Target, Confirms] = defaultdict(Confirms)
        self._full_until: dict[Target, float] = {}
        self._refused_since: dict[Target, float] = {}
        self._retired: list[Channel] = []
        self._opening = asyncio.Lock()

    async def publish(self, outgoing: Outgoing) -> None:
        """Returns when the broker has confirmed the message. Declares the target again if it was deleted. Raises
        QueueFull, BackendUnavailable.
        """
        target = outgoing.target
        try:
            with lost_is_no_cancellation():
                for _ in range(2):
                    channel = cast(RawChannel, await (await self._ready(target)).get_underlay_channel())
                    publishing = channel.basic_publish(
                        outgoing.body,
                        exchange=outgoing.exchange,
                        routing_key=outgoing.key,
                        properties=outgoing.properties,
                        mandatory=True,
                        wait=False,  # The confirm is waited for; that the bytes have left need not be.
                    )
                    try:
                        await self._confirms[target].wait(publishing)
                    except PublishError:
                        self._declared.discard(target)
                    else:
                        self._refused_since.pop(target, None)
                        return
                raise ConnectionError(f"nothing takes messages for '{outgoing.key}'")
        except DeliveryError as error:
            raise await self._refused(target, outgoing.key) from error
        except FAILURES as error:
            raise await self._gone(error) from error

    @asynccontextmanager
    async def borrowed(self) -> AsyncGenerator[Channel]:
        """Opens a channel for other purposes than publishing. Raises BackendUnavailable, also for failures inside."""
        try:
            with lost_is_no_cancellation():
                await self._ready(None)
                async with (await self._link.connection()).channel(publisher_confirms=False) as channel:
                    yield channel
        except FAILURES as error:
            raise unavailable(error) from error

    async def _refused(self, target: Target, key: str) -> QueueFull | BackendUnavailable:
        """Returns why the broker refused a message. The broker gives no reason: the queue is full, or has no leader."""
        now = asyncio.get_running_loop().time()
        if isinstance(target, QueueName):
            if now >= self._full_until.get(target, 0.0) and await self.depth(key) >= self._topology.queue_limit:
                self._full_until[target] = now + FULL_FOR
            if now < self._full_until.get(target, 0.0):
                self._refused_since.pop(target, None)
                return QueueFull(f"The queue for model '{target.model}' is full.")
        if now - self._refused_since.setdefault(target, now) > REFUSED_FOR:
            del self._refused_since[target]
            self._retire()
        return BrokerUnavailable("The broker (RabbitMQ) refused the message.", retry_after=2)

    def _retire(self) -> None:
        """Makes the next publish open another channel. Messages on this one may still wait for their confirms."""
        log.warning("rabbitmq.publishes_refused", next="going on over another channel")
        if self._channel is not None:
            self._retired.append(self._channel)
        self._channel = None

    async def _close_retired(self) -> None:
        for channel in tuple(self._retired):
            if channel.is_closed or not await awaits_confirms(channel):
                self._retired.remove(channel)
                await close_channel(channel)

    async def _ready(self, target: Target) -> Channel:
        """Returns an open channel, on a connection that is not blocked, with the target declared.

        Tried twice: when two processes declare a new quorum queue in the same moment, RabbitMQ may break off with one.
        """
        try:
            return await self._opened(target)
        except TimeoutError:
            raise
        except FAILURES:
            await self._reset()
            return await self._opened(target)

    async def _opened(self, target: Target) -> Channel:
        channel = self._channel
        connection = await self._link.connection()
        if is_blocked(connection):
            raise blocked()
        if channel is not None and not channel.is_closed and (target is None or target in self._declared):
            return channel
        async with asyncio.timeout(SETUP_TIMEOUT), self._opening:
            if self._channel is None or self._channel.is_closed:
                await self._open()
            assert self._channel is not None
            await self._declare(self._channel, target)
            return self._channel

    async def _declare(self, channel: Channel, target: Target) -> None:
        match target:
            case QueueName() if target not in self._declared:
                await self._topology.declare_jobs(await self._link.connection(), target)
            case int() if target not in self._declared:
                await self._topology.declare_retry(channel, target)
            case _:
                return
        self._declared.add(target)

    async def _open(self) -> None:
        connection = await self._link.connection()
        self._declared = set()
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await self._topology.declare_base(channel)
        gather_frames(cast(RawChannel, await channel.get_underlay_channel()), GATHER)
        self._channel = channel
        await self._close_retired()

    async def _gone(self, error: BaseException) -> BackendUnavailable:
        """Returns the error for the caller, and resets the connection, because the declarations of a broken channel are
        unknown. A connection that is only blocked is kept, to be notified of the alarm's end. A connection with recent
        confirms for other queues is kept too: only the failed queue has lost its leader.
        """
        if self._channel is not None and not self._channel.is_closed and isinstance(error, TimeoutError):
            with suppress(*FAILURES):
                if is_blocked(await self._link.connection()):
                    return blocked()
            if any(confirms.answered_lately for confirms in self._confirms.values()):
                return unavailable(error)
        await self._reset()
        return unavailable(error)

    async def _reset(self) -> None:
        self._channel = None
        self._retired.clear()
        await self._link.close()

    async def depth(self, name: str) -> int:
        try:
            with lost_is_no_cancellation():
                await self._ready(None)
                connection = await self._link.connection()
                async with asyncio.timeout(CONNECT_TIMEOUT), connection.channel() as channel:
                    queue = await channel.declare_queue(name, passive=True)
                    return queue.declaration_result.message_count or 0
        except ChannelNotFoundEntity:
            return 0
        except FAILURES as error:
            raise unavailable(error) from error

    async def version(self) -> tuple[int, ...]:
        try:
            return version_of(await self._link.connection())
        except FAILURES as error:
            raise unavailable(error) from error

    async def check(self, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                with lost_is_no_cancellation():
                    await self._ready(None)
        except FAILURES as error:
            raise unavailable(error) from error

    async def close(self) -> None:
        await self._reset()


async def awaits_confirms(channel: Channel) -> bool:
    raw = cast(RawChannel, await channel.get_underlay_channel())
    return len(raw.confirmations) > 0  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def properties_of(message: Message, expires_in: float | None) -> Properties:
    return Properties(
        headers=dict(encode_envelope(message)),
        content_type="application/json",
        message_type="chat.completion",
        message_id=message.job.id,
        timestamp=datetime.fromtimestamp(message.job.created_at, UTC),
        expiration=None if expires_in is None else str(int(expires_in * 1000)),
        delivery_mode=PERSISTENT,
    )
