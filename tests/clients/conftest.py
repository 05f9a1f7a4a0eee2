"""The unmodified SDK against the real API, on every backend."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI

from ignite.api_process import serving
from ignite.worker_process import working
from shared.backends.distributed import open_distributed
from shared.backends.embedded.backend import open_embedded
from shared.ports import Backend
from shared.settings import Settings
from tests.producer.api import Api, embedded_api, running_api, settings_for_tests
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis
from worker.engines.open_engine import EngineSettings, open_engine


@pytest.fixture(scope="module", params=["embedded", "distributed"])
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    if request.param == "embedded":
        yield settings_for_tests()
        return
    rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq_server")
    redis: Redis = request.getfixturevalue("redis_server")
    vhost = rabbitmq.create_vhost()
    yield settings_for_tests(amqp_url=rabbitmq.url(vhost), redis_url=redis.url(redis.fresh_database()))
    rabbitmq.delete_vhost(vhost)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(settings: Settings) -> AsyncIterator[Api]:
    """One for all tests of a module; each leaves the engine idle."""
    if not (settings.amqp_url and settings.redis_url):
        async with embedded_api() as api:
            yield api
        return
    async with (
        open_distributed(settings.amqp_url, settings.redis_url) as backend,
        running_api(backend, settings) as api,
    ):
        yield api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo_url(settings: Settings) -> AsyncIterator[str]:
    """The API in front of llama.cpp with the demo model."""
    engine = open_engine(EngineSettings("llamacpp", concurrency=4, context_length=1024, threads=1))
    try:
        await engine.start()
        async with (
            backend_of(settings) as backend,
            working(backend, engine, settings),
            serving(backend, settings) as server,
        ):
            yield f"{server.address}/v1"
    finally:
        await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo_client(demo_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=demo_url, api_key="any", max_retries=0) as client:
        yield client


def backend_of(settings: Settings) -> AbstractAsyncContextManager[Backend]:
    if settings.amqp_url and settings.redis_url:
        return open_distributed(settings.amqp_url, settings.redis_url)
    return open_embedded(None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(api: Api) -> AsyncIterator[AsyncOpenAI]:
    async with open_client(api) as client:
        yield client


@pytest.fixture
def sync_client(api: Api) -> Iterator[OpenAI]:
    """For threads: the server runs on the test's loop."""
    with OpenAI(base_url=api.url, api_key="any", max_retries=0) as client:
        yield client


def open_client(api: Api, api_key: str = "any") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=api.url, api_key=api_key, max_retries=0)
