"""The names of exchanges and queues, and their declarations. A repeated declaration is cheap and harmless."""

from __future__ import annotations

import random

import aio_pika
import structlog
from aio_pika.exceptions import ChannelPreconditionFailed

from shared.backends.rabbitmq.connection import Arguments, Channel, Connection
from shared.errors import sentence
from shared.job import QueueName

log = structlog.get_logger(__name__)

JOBS, DEAD, UNDECODABLE = "ignite.jobs", "ignite.dead", "ignite.undecodable"

RETRY_DELAYS = tuple(round(500 * 2 ** (step / 2)) for step in range(17))
"""Possible back-offs in milliseconds, from half a second to two minutes. Each has a queue of its own: RabbitMQ expires
messages only at the head of a queue, so all messages of one queue must have the same delay.
"""

REDELIVERY_LIMIT = 1000
"""The broker's limit is only a safety net, because it counts all messages that a crashing worker had prefetched. The
store counts the attempts of a job.
"""

DEAD_LETTER_TTL = 7 * 86400 * 1000

LONGEST_DELIVERY = 7 * 86400 * 1000
"""Milliseconds for which a delivery may be unacknowledged. RabbitMQ before 3.12 ignores this limit of a queue."""

DEAD_LETTERING: Arguments = {
    "x-queue-type": "quorum",
    "x-overflow": "reject-publish",
    "x-dead-letter-strategy": "at-least-once",
}


def routing_key(queue: QueueName) -> str:
    return f"{JOBS}.{queue}"


def retry_name(milliseconds: int) -> str:
    return f"ignite.retry.{milliseconds}"


def with_jitter(seconds: float) -> int:
    """Returns the back-off in milliseconds, varied by up to half, so that jobs that failed together are spread."""
    wanted = seconds * 1000 * random.uniform(0.5, 1.5)
    return min(RETRY_DELAYS, key=lambda delay: abs(delay - wanted))


class Topology:
    def __init__(self, queue_limit: int) -> None:
        self.queue_limit = queue_limit

    async def declare_base(self, channel: Channel) -> None:
        await channel.declare_exchange(JOBS, aio_pika.ExchangeType.DIRECT, durable=True)
        await channel.declare_exchange(DEAD, aio_pika.ExchangeType.FANOUT, durable=True)
        for name in (DEAD, UNDECODABLE):
            arguments: Arguments = {"x-queue-type": "quorum", "x-message-ttl": DEAD_LETTER_TTL}
            queue = await channel.declare_queue(name, durable=True, arguments=arguments)
            if name == DEAD:
                await queue.bind(DEAD)

    async def declare_retry(self, channel: Channel, milliseconds: int) -> str:
        """Declares the queue in which messages wait for `milliseconds`. It is declared on first use, because most
        delays are never used. It does not expire, because an expiring queue would take its messages with it.
        """
        name = retry_name(milliseconds)
        exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.FANOUT, durable=True)
        arguments: Arguments = {
            **DEAD_LETTERING,
            "x-dead-letter-exchange": JOBS,
            "x-message-ttl": milliseconds,
        }
        queue = await channel.declare_queue(name, durable=True, arguments=arguments)
        await queue.bind(exchange)
        return name

    async def declare_jobs(self, connection: Connection, queue: QueueName) -> str:
        """Declares the queue of a model and tier. If it exists with other arguments, from other settings, it is used as
        it is: jobs wait in it, and processes with old and new settings may run side by side. Each declaration has a
        channel of its own, because the broker closes a channel whose declaration fails.
        """
        name = routing_key(queue)
        try:
            async with connection.channel(publisher_confirms=False) as channel:
                await self._declare_bound(channel, name)
        except ChannelPreconditionFailed as error:
            log.warning(
                "rabbitmq.queue_differs",
                queue=name,
                error=sentence(error),
                next="used as it is; delete it when it is empty, and it is declared with these settings",
            )
            async with connection.channel(publisher_confirms=False) as channel:
                await (await channel.declare_queue(name, passive=True)).bind(JOBS, routing_key=name)
        return name

    async def _declare_bound(self, channel: Channel, name: str) -> None:
        arguments: Arguments = {
            **DEAD_LETTERING,
            "x-dead-letter-exchange": DEAD,
            "x-max-length": self.queue_limit,
            "x-delivery-limit": REDELIVERY_LIMIT,
            "x-consumer-timeout": LONGEST_DELIVERY,
        }
        declared = await channel.declare_queue(name, durable=True, arguments=arguments)
        await declared.bind(JOBS, routing_key=name)
