"""The distributed backend: RabbitMQ holds what must still run, Redis what has happened."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog

from shared.backends.follower_hub import FollowerHub
from shared.backends.rabbitmq import RabbitQueue
from shared.backends.rabbitmq.explained import Refused
from shared.backends.redis import keys
from shared.backends.redis.connection.durability import (
    StoreFacts,
    ask_store,
    memory_of,
    refuse_eviction,
    store_warnings,
)
from shared.backends.redis.connection.presence import any_subscribed
from shared.backends.redis.connection.server import Server, open_server
from shared.backends.redis.documents import RedisDocuments
from shared.backends.redis.fair_queue import RedisFairQueue
from shared.backends.redis.jobs.log import RedisLog, dispatch
from shared.backends.redis.jobs.orphans import OrphanFinder
from shared.backends.redis.jobs.store import RedisStore
from shared.backends.redis.limiter import RedisLimiter
from shared.backends.redis.outbox import RedisOutbox
from shared.backends.redis.registry import RedisRegistry
from shared.backends.redis.storage_quota import KeptBytes
from shared.errors import BackendUnavailable, IgniteError, StoreUnavailable
from shared.job import Job, QueueName
from shared.quota import usual_limit
from shared.settings import SettingsError

log = structlog.get_logger(__name__)


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
        tenant_limit: int | None,
    ) -> None:
        replica = os.urandom(8).hex()
        hub = FollowerHub()
        self._server = server
        self._facts = facts
        self._live = server.subscription(keys.replica(replica), partial(dispatch, hub), hub.distrust_all)
        self.queue = RabbitQueue(amqp_url, queue_limit=queue_limit, consumer_timeout=consumer_timeout)
        kept = KeptBytes(server.pipeline, usual_limit(memory_of(facts)) if tenant_limit is None else tenant_limit)
        self.log = RedisLog(self._server.pipeline, hub, replica, kept=kept)
        self.scheduler = RedisFairQueue(self._server.pipeline, fair=fair)
        self.store = RedisStore(self._server.pipeline, replica, scheduler=self.scheduler, kept=kept)
        self.documents = RedisDocuments(self._server.pipeline)
        self.outbox = RedisOutbox(self._server.pipeline)
        self.limiter = RedisLimiter(self._server.pipeline)
        self.registry = RedisRegistry(self._server)
        self._orphans = OrphanFinder(self._server.pipeline, self.scheduler, self.queue.depth)

    async def listen(self) -> None:
        """Subscribes to live messages; from then on, logs can be followed. Raises BackendUnavailable."""
        await self._live.open()

    async def require_access(self) -> None:
        """Checks that the broker accepts the settings. If it cannot be reached, logs a warning and returns. Raises
        SettingsError.
        """
        try:
            await self.queue.check()
        except BackendUnavailable as error:
            if isinstance(error.__cause__, Refused):
                raise SettingsError(f"The broker refuses the setting amqp_url: {error.detail}.") from None
            log.warning("broker.away", error=str(error), next="started without it; connected when it is back")

    async def orphans(self, queue: QueueName, waited: float) -> Sequence[Job]:
        return await self._orphans.find(queue, waited)

    async def warnings(self, longest_job: float) -> Sequence[str]:
        """Returns the store's warnings even if the broker does not answer."""
        found = [*store_warnings(self._facts)]
        with suppress(BackendUnavailable):
            found += await self.queue.warnings(longest_job)
        return found

    async def check(self) -> Mapping[str, IgniteError | None]:
        broker, store = await asyncio.gather(self.queue.check(), self._server.pipeline.probe(), return_exceptions=True)
        live = StoreUnavailable("No live messages arrive from the store (Redis).", detail="the subscription has ended")
        return {"broker": complaint(broker), "store": complaint(store) or (live if self._live.ended else None)}

    async def close(self) -> None:
        await self.queue.close()
        await self._live.close()
        await self._server.close()


def complaint(outcome: object) -> IgniteError | None:
    if isinstance(outcome, BackendUnavailable):
        return outcome
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
    tenant_limit: int | None = None,
) -> AsyncGenerator[DistributedBackend]:
    """Connects to Redis on entry, and to RabbitMQ when it is first needed. `fair`: whether the tenants of a queue share
    its workers fairly; `consumer_timeout`: the broker's, in seconds; `follows`: whether this process will follow logs;
    `eviction`: whether a store that evicts keys is accepted; `tenant_limit`: bytes that a tenant may keep in the store
    (None: a share of its memory, 0: unlimited). Raises BackendUnavailable, SettingsError.
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
        amqp_url,
        server,
        facts,
        queue_limit=queue_limit,
        fair=fair,
        consumer_timeout=consumer_timeout,
        tenant_limit=tenant_limit,
    )
    try:
        await backend.require_access()
        if follows:
            await backend.listen()
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def open_distributed_documents(redis_url: str) -> AsyncGenerator[RedisDocuments]:
    """Opens the documents only, which need no broker. Raises BackendUnavailable."""
    server = await open_server(redis_url)
    try:
        yield RedisDocuments(server.pipeline)
    finally:
        await server.close()


DIAGNOSIS = 12.0
"""Seconds that a server has to answer `ignite doctor`."""


async def diagnose_distributed(amqp_url: str, redis_url: str) -> Mapping[str, IgniteError | None]:
    """Checks each server independently, so that the failure of one does not hide a fault of the other."""
    broker, store = await asyncio.gather(try_broker(amqp_url), try_store(redis_url), return_exceptions=True)
    return {"broker": complaint(broker), "store": complaint(store)}


async def try_broker(amqp_url: str) -> None:
    """Connects, and makes the declarations that every process makes. Raises BackendUnavailable."""
    queue = RabbitQueue(amqp_url, queue_limit=1, consumer_timeout=1.0)
    try:
        await queue.check(DIAGNOSIS)
    finally:
        await queue.close()


async def try_store(redis_url: str) -> None:
    """Connects, writes, runs a step and subscribes. Raises BackendUnavailable, SettingsError."""
    server = await open_server(redis_url)
    try:
        await server.pipeline.probe()
        await any_subscribed(server.pipeline, keys.replica("doctor"))
        subscription = server.subscription(keys.replica("doctor"), ignored, nothing)
        try:
            await subscription.open()
        finally:
            await subscription.close()
    finally:
        await server.close()


def ignored(message: bytes) -> None:
    """Ignores messages of the test subscription."""


def nothing() -> None:
    """Ignores a broken test connection: the step that failed has raised the error."""
