"""The job queue on RabbitMQ."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from shared.backends.rabbitmq.connection import CONNECT_TIMEOUT, Connection
from shared.backends.rabbitmq.consumer import Key, RabbitConsumer
from shared.backends.rabbitmq.publisher import Publisher, job_message
from shared.backends.rabbitmq.topology import DEAD, Topology, routing_key
from shared.backends.rabbitmq.undecodable import review
from shared.job import QueueName
from shared.ports import Consumer, Fate, Message, Undecodable

DEAD_LETTERS_PREFETCH = 16
LIMIT_PER_QUEUE = (3, 12)
"""The version of RabbitMQ from which each queue has its own consumer timeout."""


class RabbitQueue:
    """`urls`: of the broker's nodes, comma-separated; `queue_limit`: most messages that may wait in one queue;
    `consumer_timeout`: the broker's, in seconds, which the broker cannot report.
    """

    def __init__(self, urls: str, *, queue_limit: int, consumer_timeout: float) -> None:
        self._urls = urls
        self._consumer_timeout = consumer_timeout
        self._topology = Topology(queue_limit)
        self._publisher = Publisher(urls, self._topology)

    async def publish(self, message: Message) -> None:
        await self._publisher.publish(job_message(message))

    @asynccontextmanager
    async def consume(self, queues: Sequence[QueueName], prefetch: int | Sequence[int]) -> AsyncGenerator[Consumer]:
        each = [prefetch] * len(queues) if isinstance(prefetch, int) else prefetch
        by_queue = dict(zip(queues, each, strict=True))
        async with RabbitConsumer(self._urls, self._publisher, self._declare, by_queue) as consumer:
            yield consumer

    @asynccontextmanager
    async def dead_letters(self) -> AsyncGenerator[Consumer]:
        prefetch = {None: DEAD_LETTERS_PREFETCH}
        async with RabbitConsumer(self._urls, self._publisher, self._declare, prefetch) as consumer:
            yield consumer

    async def undecodable(self, decide: Callable[[Undecodable], Fate], limit: int) -> Sequence[Undecodable]:
        return await review(self._publisher, decide, limit)

    async def depth(self, queue: QueueName) -> int:
        return await self._publisher.depth(routing_key(queue))

    async def warnings(self, longest_job: float) -> Sequence[str]:
        version = await self._publisher.version()
        if version >= LIMIT_PER_QUEUE or longest_job <= self._consumer_timeout:
            return ()
        return (
            f"RabbitMQ {'.'.join(map(str, version))} requeues a delivery that is unacknowledged for "
            f"{self._consumer_timeout:.0f} s (consumer_timeout), and a job may take {longest_job:.0f} s. Such a job "
            f"goes on and loses nothing. To avoid the redelivery, raise consumer_timeout in rabbitmq.conf and set "
            f"IGNITE_CONSUMER_TIMEOUT to the same value, or use RabbitMQ 3.12 or newer.",
        )

    async def check(self, patience: float = CONNECT_TIMEOUT) -> None:
        """Raises BackendUnavailable if the broker does not answer within `patience` seconds."""
        await self._publisher.check(patience)

    async def close(self) -> None:
        await self._publisher.close()

    async def _declare(self, queue: Key, connection: Connection) -> str:
        async with connection.channel(publisher_confirms=False) as channel:
            await self._topology.declare_base(channel)
        return DEAD if queue is None else await self._topology.declare_jobs(connection, queue)
