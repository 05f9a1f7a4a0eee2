"""The job queue on RabbitMQ."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from shared.backends.rabbitmq import DEAD, JOBS, Channel, Publisher, RabbitConsumer, Topology, routing_key
from shared.job import QueueName
from shared.ports import Consumer, Message


class RabbitQueue:
    """`queue_limit`: messages that may wait in one queue before publishing is refused."""

    def __init__(self, url: str, *, queue_limit: int) -> None:
        self._url = url
        self._topology = Topology(queue_limit)
        self._publisher = Publisher(url, self._topology)

    async def publish(self, message: Message) -> None:
        await self._publisher.publish(JOBS, message, expires_in=max(0.0, message.deadline_at - time.time()))

    @asynccontextmanager
    async def consume(self, queues: Sequence[QueueName], prefetch: int) -> AsyncGenerator[Consumer]:
        async def declare(channel: Channel) -> list[str]:
            await self._topology.declare_base(channel)
            return [await self._topology.declare_jobs(channel, queue) for queue in queues]

        async with RabbitConsumer(self._url, self._publisher, declare, prefetch) as consumer:
            yield consumer

    @asynccontextmanager
    async def dead_letters(self) -> AsyncGenerator[Consumer]:
        async def declare(channel: Channel) -> list[str]:
            await self._topology.declare_base(channel)
            return [DEAD]

        async with RabbitConsumer(self._url, self._publisher, declare, prefetch=16) as consumer:
            yield consumer

    async def depth(self, queue: QueueName) -> int:
        return await self._publisher.depth(routing_key(queue))

    async def check(self) -> None:
        """Raises BackendUnavailable."""
        await self._publisher.check()

    async def close(self) -> None:
        await self._publisher.close()
