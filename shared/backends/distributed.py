"""The distributed backend: RabbitMQ holds what must still run, Redis what has happened."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

from shared.backends import redis_keys as keys
from shared.backends.follower import FollowerHub
from shared.backends.rabbitmq import RabbitQueue
from shared.backends.redis_documents import RedisDocuments
from shared.backends.redis_facts import StoreFacts, ask_store, refuse_eviction, store_warnings
from shared.backends.redis_limiter import RedisLimiter
from shared.backends.redis_log import RedisLog, dispatch
from shared.backends.redis_outbox import RedisOutbox
from shared.backends.redis_registry import RedisRegistry
from shared.backends.redis_server import Server, open_server
from shared.backends.redis_store import RedisStore
from shared.backends.redis_strays import StrayFinder
from shared.errors import BackendUnavailable
from shared.job import Job, QueueName


class DistributedBackend:
    name = "distributed"

    def __init__(
        self,
        amqp_url: str,
        server: Server,
        facts: Sequence[StoreFacts],
        *,
        queue_limit: int,
        fair: bool,
        consumer_timeout: float,
    ) -> None:
        replica = os.urandom(8).hex()
        hub = FollowerHub()
        self._server = server
        self._facts = facts
        self._live = server.subscription(keys.replica(replica), partial(dispatch, hub), hub.distrust_all)
        self.queue = RabbitQueue(amqp_url, queue_limit=queue_limit, consumer_timeout=consumer_timeout)
        self.log = RedisLog(self._server.pipeline, hub, replica)
        self.store = RedisStore(self._server.pipeline, replica, fair=fair)
        self.documents = RedisDocuments(self._server.pipeline)
        self.outbox = RedisOutbox(self._server.pipeline)
        self.limiter = RedisLimiter(self._server.pipeline)
        self.registry = RedisRegistry(self._server)
        self._strays = StrayFinder(self._server.pipeline, self.queue.depth)

    async def listen(self) -> None:
        """Logs can be followed from here on. Raises BackendUnavailable."""
        await self._live.open()

    async def strays(self, queue: QueueName, waited: float) -> Sequence[Job]:
        return await self._strays.find(queue, waited)

    async def warnings(self, longest_job: float) -> Sequence[str]:
        """What is known of the store is told also while the broker is away."""
        found = [*store_warnings(self._facts)]
        with suppress(BackendUnavailable):
            found += await self.queue.warnings(longest_job)
        return found

    async def check(self) -> Mapping[str, str | None]:
        broker, store = await asyncio.gather(self.queue.check(), self._server.pipeline.probe(), return_exceptions=True)
        live = "the live subscription has ended" if self._live.ended else None
        return {"broker": complaint(broker), "store": complaint(store) or live}

    async def close(self) -> None:
        await self.queue.close()
        await self._live.close()
        await self._server.close()


def complaint(outcome: object) -> str | None:
    if isinstance(outcome, BackendUnavailable):
        return outcome.message
    if isinstance(outcome, BaseException):
        raise outcome
    return None


@asynccontextmanager
async def open_distributed(
    amqp_url: str,
    redis_url: str,
    *,
    queue_limit: int = 10_000,
    fair: bool = True,
    consumer_timeout: float = 1800.0,
    follows: bool = True,
    eviction: bool = False,
) -> AsyncGenerator[DistributedBackend]:
    """Connected to Redis on entry; to RabbitMQ when first needed. `fair`: whether tenants take turns in a queue;
    `consumer_timeout`: what the broker is set to, in seconds; `follows`: whether logs are to be followed here;
    `eviction`: whether the store may evict keys. Raises BackendUnavailable, SettingsError.
    """
    server = await open_server(redis_url)
    try:
        facts = await ask_store(server.pipeline)
        if not eviction:
            refuse_eviction(facts)
    except BaseException:
        await server.close()
        raise
    backend = DistributedBackend(
        amqp_url, server, facts, queue_limit=queue_limit, fair=fair, consumer_timeout=consumer_timeout
    )
    try:
        if follows:
            await backend.listen()
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def open_distributed_documents(redis_url: str) -> AsyncGenerator[RedisDocuments]:
    """The documents alone: they need no broker. Raises BackendUnavailable."""
    server = await open_server(redis_url)
    try:
        yield RedisDocuments(server.pipeline)
    finally:
        await server.close()
