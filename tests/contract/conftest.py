"""Every backend, made the same way. A backend that is not here is not held to the ports' promises."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol

import pytest
import redis

from shared.backends.distributed import open_distributed
from shared.backends.embedded.backend import open_embedded
from shared.ports import Backend
from tests.support.redis_cluster import RedisCluster


class Maker(Protocol):
    """Opens a backend; what an earlier one left in the same test is there again, unless it lived in memory."""

    def __call__(
        self, *, queue_limit: int = ..., fair: bool = ..., tenant_limit: int = ...
    ) -> AbstractAsyncContextManager[Backend]: ...


BACKENDS = ("embedded", "embedded-memory", "distributed", "redis-cluster")


@pytest.fixture(params=BACKENDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def maker(kind: str, request: pytest.FixtureRequest) -> Iterator[Maker]:
    yield from MAKERS[kind](request)


@pytest.fixture
async def backend(maker: Maker) -> AsyncGenerator[Backend]:
    async with maker() as opened:
        yield opened


@pytest.fixture
async def replicas(kind: str, maker: Maker) -> AsyncGenerator[tuple[Backend, Backend]]:
    """Two processes' views of the same jobs. Embedded, there is only one process to look from."""
    async with maker() as one, second(kind, one, maker) as other:
        yield one, other


@asynccontextmanager
async def second(kind: str, one: Backend, maker: Maker) -> AsyncGenerator[Backend]:
    if kind.startswith("embedded"):
        yield one
        return
    async with maker() as other:
        yield other


def embedded(request: pytest.FixtureRequest) -> Iterator[Maker]:
    yield partial(open_embedded, request.getfixturevalue("tmp_path"))


def embedded_memory(_: pytest.FixtureRequest) -> Iterator[Maker]:
    yield partial(open_embedded, None)


def distributed(request: pytest.FixtureRequest) -> Iterator[Maker]:
    """Whatever the test did, no key may stay in Redis for ever."""
    redis_url: str = request.getfixturevalue("redis_url")
    amqp_url: str = request.getfixturevalue("amqp_url")
    request.getfixturevalue("settled_redis")
    yield partial(open_distributed, amqp_url, redis_url)
    with redis.Redis.from_url(redis_url) as client:
        kept: list[Any] = [key for key in client.scan_iter() if client.pttl(key) == -1]
    assert not kept, f"keys without an expiry: {kept}"


def redis_cluster(request: pytest.FixtureRequest) -> Iterator[Maker]:
    amqp_url: str = request.getfixturevalue("amqp_url")
    cluster: RedisCluster = request.getfixturevalue("redis_cluster")
    yield partial(open_distributed, amqp_url, cluster.url)
    assert cluster.keys_without_expiry() == []


MAKERS: dict[str, Callable[[pytest.FixtureRequest], Iterator[Maker]]] = {
    "embedded": embedded,
    "embedded-memory": embedded_memory,
    "distributed": distributed,
    "redis-cluster": redis_cluster,
}
