"""The distributed backend: RabbitMQ holds what must still run, Redis what has happened."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from shared.backends import redis_keys as keys
from shared.backends.follower import FollowerHub
from shared.backends.rabbitmq_queue import RabbitQueue
from shared.backends.redis import RedisServer, Subscription
from shared.backends.redis_log import RedisLog, dispatch
from shared.backends.redis_registry import RedisRegistry
from shared.backends.redis_store import RedisStore
from shared.errors import BackendUnavailable


class DistributedBackend:
    name = "distributed"

    def __init__(self, amqp_url: str, redis_url: str, *, queue_limit: int) -> None:
        replica = os.urandom(8).hex()
        hub = FollowerHub()
        self._server = RedisServer(redis_url)
        self._live = Subscription(redis_url, keys.replica(replica), partial(dispatch, hub), hub.distrust_all)
        self.queue = RabbitQueue(amqp_url, queue_limit=queue_limit)
        self.log = RedisLog(self._server.pipeline, hub, replica)
        self.store = RedisStore(self._server.pipeline, replica)
        self.registry = RedisRegistry(self._server)

    async def open(self) -> None:
        """Raises BackendUnavailable."""
        await self._live.open()

    async def check(self) -> Mapping[str, str | None]:
        broker, store = await asyncio.gather(
            self.queue.check(), self._server.pipeline.command("PING"), return_exceptions=True
        )
        live = "the live subscription has ended" if self._live.task.done() else None
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
    amqp_url: str, redis_url: str, *, queue_limit: int = 10_000
) -> AsyncGenerator[DistributedBackend]:
    """Connected to Redis on entry; to RabbitMQ when first needed. Raises BackendUnavailable."""
    backend = DistributedBackend(amqp_url, redis_url, queue_limit=queue_limit)
    try:
        await backend.open()
        yield backend
    finally:
        await backend.close()
