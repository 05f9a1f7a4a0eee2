"""An API with HTTP and gRPC on each backend, shared by a module's tests; each test leaves the engine idle."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from shared.backends.distributed import open_distributed
from shared.settings import Settings
from tests.producer.api import Api, embedded_api, running_api, settings_for_tests
from tests.support.grpc_client import GrpcClient, grpc_client
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis


@pytest.fixture(scope="module", params=["embedded", "distributed"])
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    if request.param == "embedded":
        yield settings_for_tests(grpc=True)
        return
    rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq_server")
    redis: Redis = request.getfixturevalue("redis_server")
    vhost = rabbitmq.create_vhost()
    yield settings_for_tests(grpc=True, amqp_url=rabbitmq.url(vhost), redis_url=redis.url(redis.fresh_database()))
    rabbitmq.delete_vhost(vhost)


@asynccontextmanager
async def opened_api(settings: Settings, *, worker: bool = True) -> AsyncGenerator[Api]:
    if not (settings.amqp_url and settings.redis_url):
        async with embedded_api(grpc=True, worker=worker) as api:
            yield api
        return
    async with (
        open_distributed(settings.amqp_url, settings.redis_url) as backend,
        running_api(backend, settings, worker=worker) as api,
    ):
        yield api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with opened_api(settings) as api:
        yield api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(api: Api) -> AsyncGenerator[GrpcClient]:
    async with grpc_client(api.grpc_address) as client:
        yield client
