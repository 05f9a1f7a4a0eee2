"""The unmodified SDK against the real API, on every backend."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI

from shared.backends.distributed import open_distributed
from shared.settings import Settings
from tests.producer.api import Api, embedded_api, running_api, settings_for_tests
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis


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
