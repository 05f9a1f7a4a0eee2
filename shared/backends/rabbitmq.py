"""RabbitMQ's driver, and the only file that imports it: topology, a confirmed publisher, a consumer that stays.

Topology, all durable, all quorum queues:

    ignite.jobs (direct) ──▶ ignite.jobs.<model>.<tier> ──expired, rejected, undeliverable──▶ ignite.dead (fanout)
    ignite.retry.<s> (fanout) ──▶ ignite.retry.<s> ──after <s> seconds, by its own routing key──▶ ignite.jobs

Connections are plain ones: when one breaks, whoever uses it connects again and declares everything again. A connection
that comes back by itself without its consumer is a trap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, ChannelPreconditionFailed, DeliveryError

from shared.backends.envelope import decode_envelope, encode_envelope
from shared.errors import BackendUnavailable, QueueFull, sentence
from shared.job import QueueName
from shared.ports import Delivery, Message

log = structlog.get_logger(__name__)

JOBS, DEAD, UNDECODABLE = "ignite.jobs", "ignite.dead", "ignite.undecodable"
RETRY_DELAYS = (1, 5, 30, 120)
"""Seconds. A back-off is one of these: a queue whose messages wait equally long never holds one up behind another."""

CONNECT_TIMEOUT = 5.0
CONFIRM_TIMEOUT = 5.0
"""Seconds; a broker that blocks publishers (memory alarm) confirms nothing, and the client must hear of it."""

SETUP_TIMEOUT = 10.0
"""Seconds for declaring everything: a broker that is just coming up may take a connection and say nothing on it."""

REDELIVERY_LIMIT = 1000
"""Only a safety net: the broker counts every innocent job that a crashing worker had prefetched.

Attempts are counted in the claim.
"""

DEAD_LETTER_TTL = 7 * 86400 * 1000
FAILURES = (*CONNECTION_EXCEPTIONS, TimeoutError)

Arguments = dict[str, Any]
Channel = AbstractChannel

DEAD_LETTERING: Arguments = {
    "x-queue-type": "quorum",
    "x-overflow": "reject-publish",
    "x-dead-letter-strategy": "at-least-once",
}


def routing_key(queue: QueueName) -> str:
    return f"{JOBS}.{queue}"


def unavailable(error: BaseException) -> BackendUnavailable:
    return BackendUnavailable(f"The broker (RabbitMQ) does not answer: {sentence(error)}.", retry_after=2)


async def connect(url: str, name: str) -> AbstractConnection:
    """A connection whose death is noticed in about 20 s even behind a silent network."""
    connection_url = url if "heartbeat=" in url else f"{url}{'&' if '?' in url else '?'}heartbeat=10"
    return await aio_pika.connect(connection_url, timeout=CONNECT_TIMEOUT, client_properties={"connection_name": name})


class Topology:
    """Declares what must be there. Declaring again is cheap and harmless."""

    def __init__(self, queue_limit: int) -> None:
        self._queue_limit = queue_limit

    async def declare_base(self, channel: AbstractChannel) -> None:
        await channel.declare_exchange(JOBS, aio_pika.ExchangeType.DIRECT, durable=True)
        await channel.declare_exchange(DEAD, aio_pika.ExchangeType.FANOUT, durable=True)
        for name in (DEAD, UNDECODABLE):
            arguments: Arguments = {"x-queue-type": "quorum", "x-message-ttl": DEAD_LETTER_TTL}
            queue = await channel.declare_queue(name, durable=True, arguments=arguments)
            if name == DEAD:
                await queue.bind(DEAD)
        for seconds in RETRY_DELAYS:
            await self._declare_retry(channel, seconds)

    async def _declare_retry(self, channel: AbstractChannel, seconds: int) -> None:
        name = retry_name(seconds)
        exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.FANOUT, durable=True)
        arguments: Arguments = {**DEAD_LETTERING, "x-dead-letter-exchange": JOBS, "x-message-ttl": seconds * 1000}
        queue = await channel.declare_queue(name, durable=True, arguments=arguments)
        await queue.bind(exchange)

    async def declare_jobs(self, channel: AbstractChannel, queue: QueueName) -> str:
        name = routing_key(queue)
        arguments: Arguments = {
            **DEAD_LETTERING,
            "x-dead-letter-exchange": DEAD,
            "x-max-length": self._queue_limit,
            "x-delivery-limit": REDELIVERY_LIMIT,
        }
        try:
            declared = await channel.declare_queue(name, durable=True, arguments=arguments)
        except ChannelPreconditionFailed as error:
            raise BackendUnavailable(
                f"The queue '{name}' exists with other arguments than these settings ask for ({error}). "
                "Delete it once it is empty, or set the queue limit back."
            ) from error
        await declared.bind(JOBS, routing_key=name)
        return name


def retry_name(seconds: int) -> str:
    return f"ignite.retry.{seconds}"


class Publisher:
    """One confirmed channel, opened when needed and again after it broke."""

    def __init__(self, url: str, topology: Topology) -> None:
        self._url = url
        self._topology = topology
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._exchanges: dict[str, aio_pika.abc.AbstractExchange] = {}
        self._declared: set[QueueName] = set()
        self._opening = asyncio.Lock()

    async def publish(self, exchange: str, message: Message, *, expires_in: float | None = None) -> None:
        """Returns once the broker has taken it. Raises QueueFull, BackendUnavailable."""
        await self._send(exchange, to_amqp(message, expires_in), message.queue)

    async def set_aside(self, raw: AbstractIncomingMessage) -> None:
        """Keep what nobody can decode where a person finds it."""
        copy = aio_pika.Message(raw.body, headers=raw.headers, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self._send("", copy, None)

    async def _send(self, exchange: str, message: aio_pika.Message, queue: QueueName | None) -> None:
        key = UNDECODABLE if queue is None else routing_key(queue)
        try:
            channel = await self._ready(queue)
            target = self._exchange(channel, exchange)
            await target.publish(message, key, timeout=CONFIRM_TIMEOUT)
        except DeliveryError as error:
            raise QueueFull(f"The queue for model '{queue and queue.model}' is full.") from error
        except BackendUnavailable:
            raise
        except FAILURES as error:
            await self._reset()
            raise unavailable(error) from error

    def _exchange(self, channel: AbstractChannel, name: str) -> aio_pika.abc.AbstractExchange:
        if not name:
            return channel.default_exchange
        if name not in self._exchanges:
            self._exchanges[name] = aio_pika.Exchange(channel, name, durable=True)
        return self._exchanges[name]

    async def _ready(self, queue: QueueName | None) -> AbstractChannel:
        channel = self._channel
        if channel is not None and not channel.is_closed and (queue is None or queue in self._declared):
            return channel
        async with asyncio.timeout(SETUP_TIMEOUT), self._opening:
            if self._channel is None or self._channel.is_closed:
                await self._open()
            assert self._channel is not None
            if queue is not None and queue not in self._declared:
                await self._topology.declare_jobs(self._channel, queue)
                self._declared.add(queue)
            return self._channel

    async def _open(self) -> None:
        # Not `is_closed`: that is true only of a connection that was closed from this side.
        if self._connection is None or not self._connection.connected.is_set():
            self._connection = await connect(self._url, "ignite publisher")
        self._exchanges, self._declared = {}, set()
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        await self._topology.declare_base(channel)
        self._channel = channel

    async def _reset(self) -> None:
        """Begin afresh with the next publish: what a broken channel has declared is not known."""
        connection, self._connection, self._channel = self._connection, None, None
        await close_quietly(connection)

    async def depth(self, name: str) -> int:
        try:
            await self._ready(None)
            assert self._connection is not None
            async with self._connection.channel() as channel:
                queue = await channel.declare_queue(name, passive=True)
                return queue.declaration_result.message_count or 0
        except ChannelNotFoundEntity:
            return 0
        except FAILURES as error:
            raise unavailable(error) from error

    async def check(self) -> None:
        try:
            await asyncio.wait_for(self._ready(None), CONNECT_TIMEOUT)
        except FAILURES as error:
            raise unavailable(error) from error

    async def close(self) -> None:
        await self._reset()


def to_amqp(message: Message, expires_in: float | None) -> aio_pika.Message:
    return aio_pika.Message(
        message.body or b"",
        headers=dict(encode_envelope(message)),
        content_type="application/json",
        type="chat.completion",
        message_id=message.job_id,
        timestamp=message.created_at,
        expiration=expires_in,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


async def close_quietly(connection: AbstractConnection | None) -> None:
    if connection is not None:
        with suppress(*FAILURES):
            await asyncio.wait_for(connection.close(), 2.0)


class RabbitDelivery:
    def __init__(self, message: Message, raw: AbstractIncomingMessage, publisher: Publisher) -> None:
        self.message = message
        self._raw = raw
        self._publisher = publisher

    async def ack(self) -> None:
        await self._settle(self._raw.ack())

    async def retry(self, after: float = 0.0) -> None:
        if after <= 0:
            await self._settle(self._raw.nack(requeue=True))
            return
        seconds = next((delay for delay in RETRY_DELAYS if delay >= after), RETRY_DELAYS[-1])
        await self._publisher.publish(retry_name(seconds), self.message)
        await self.ack()

    async def reject(self) -> None:
        await self._settle(self._raw.reject(requeue=False))

    async def _settle(self, settling: Awaitable[None]) -> None:
        try:
            await settling
        except FAILURES as error:
            log.info("delivery.lost", job=self.message.job_id, error=str(error), next="the broker delivers it again")


def sets(event: asyncio.Event) -> Callable[..., None]:
    def callback(*_: Any) -> None:
        event.set()

    return callback


Declare = Callable[[Channel], Awaitable[list[str]]]


class RabbitConsumer:
    """Deliveries of several queues, the first queue's first. Owns a connection and the task that keeps it alive."""

    def __init__(self, url: str, publisher: Publisher, declare: Declare, prefetch: int) -> None:
        self._url = url
        self._publisher = publisher
        self._declare = declare
        self._prefetch = prefetch
        self._lines: list[deque[RabbitDelivery]] = []
        self._consuming: list[tuple[AbstractQueue, str]] = []
        self._stopped = False
        self._arrived = asyncio.Event()
        self._connection: AbstractConnection | None = None
        self._broken = asyncio.Event()

    async def __aenter__(self) -> RabbitConsumer:
        try:
            await self._connect()
        except FAILURES as error:
            await close_quietly(self._connection)
            raise unavailable(error) from error
        self._keeper = asyncio.create_task(self._keep(), name="rabbitmq-consumer")
        # Its death must reach whoever waits for a delivery.
        self._keeper.add_done_callback(lambda _: self._arrived.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        await close_quietly(self._connection)

    async def next(self) -> Delivery:
        while True:
            for line in self._lines:
                if line:
                    return line.popleft()
            if self._keeper.done():
                self._keeper.result()
            self._arrived.clear()
            await self._arrived.wait()

    async def stop(self) -> None:
        self._stopped = True
        try:
            for queue, tag in self._consuming:
                await queue.cancel(tag)
        except FAILURES as error:
            log.info("rabbitmq.consumer_lost", error=str(error), next="the broker takes back what was not handed out")
        for line in self._lines:
            while line:
                await line.popleft().retry()

    async def _keep(self) -> None:
        delay = 0.1
        while True:
            await self._broken.wait()
            if self._stopped:
                return
            log.warning("rabbitmq.consumer_lost", next="connecting again")
            await close_quietly(self._connection)
            try:
                await self._connect()
                delay = 0.1
            except (*FAILURES, BackendUnavailable) as error:
                log.warning("rabbitmq.connect_failed", error=str(error), next=f"trying again in {delay:.1f} s")
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)

    async def _connect(self) -> None:
        async with asyncio.timeout(SETUP_TIMEOUT):
            await self._consume()

    async def _consume(self) -> None:
        self._lines, self._consuming, broken = [], [], asyncio.Event()
        connection = self._connection = await connect(self._url, "ignite consumer")
        connection.close_callbacks.add(sets(broken))
        channel = await connection.channel(publisher_confirms=False)
        channel.close_callbacks.add(sets(broken))
        names = await self._declare(channel)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(sets(broken))
        await channel.set_qos(prefetch_count=self._prefetch)
        for name in names:
            line: deque[RabbitDelivery] = deque()
            self._lines.append(line)
            queue = await channel.get_queue(name, ensure=False)
            self._consuming.append((queue, await queue.consume(self._receiver(line))))
        self._broken = broken

    def _receiver(self, line: deque[RabbitDelivery]) -> Callable[[AbstractIncomingMessage], Awaitable[Any]]:
        async def receive(raw: AbstractIncomingMessage) -> None:
            try:
                message = decode_envelope(raw.headers, raw.body)
            except (KeyError, ValueError, TypeError) as error:
                log.error("delivery.undecodable", error=repr(error), next=f"set aside in {UNDECODABLE}")
                await self._publisher.set_aside(raw)
                await raw.ack()
                return
            delivery = RabbitDelivery(message, raw, self._publisher)
            if self._stopped:
                await delivery.retry()
            else:
                line.append(delivery)
                self._arrived.set()

        return receive
