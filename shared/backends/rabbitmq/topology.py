"""Names, and what must be declared before they are used. Declaring again is cheap and harmless."""

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
"""Milliseconds, from half a second to two minutes. A back-off is one of these: in a queue whose messages wait equally
long none holds another up.
"""

REDELIVERY_LIMIT = 1000
"""Only a safety net: the broker counts every innocent job that a crashing worker had prefetched.

Attempts are counted in the claim.
"""

DEAD_LETTER_TTL = 7 * 86400 * 1000

LONGEST_DELIVERY = 7 * 86400 * 1000
"""Milliseconds a delivery may stay unacknowledged where the broker knows a limit per queue (from 3.12; earlier ones
ignore the argument).
"""

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
    """The back-off's step, in milliseconds. Jobs that failed together come back apart: up to half of it either way."""
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
        """A queue in which messages wait for that long. Most are never needed, so none is declared before it is; none
        expires, since a queue that does takes its messages with it.
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
        """A queue that is there with another bound, from other settings, is used as it is: jobs wait in it, and workers
        and APIs need not be restarted in one moment to change it. Each try has a channel of its own, since the broker
        closes one over which something was declared in vain.
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
                next="using it as it is; delete it once it is empty, and it is declared as these settings ask for",
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
