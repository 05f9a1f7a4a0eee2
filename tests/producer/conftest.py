"""An API for each test, on the production event loop, because event loops report disconnects differently."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
import uvloop

from shared.backends.distributed import open_distributed
from tests.producer.api import Api, embedded_api, running_api, settings_for_tests


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, object]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def warnings_only() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.configure(**before)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with embedded_api() as api:
        yield api


@pytest.fixture
async def idle_api() -> AsyncIterator[Api]:
    """An API without a worker."""
    async with embedded_api(worker=False) as api:
        yield api


@pytest.fixture
async def distributed_api(amqp_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    settings = settings_for_tests(amqp_url=amqp_url, redis_url=redis_url, files_dir=tmp_path)
    async with open_distributed(amqp_url, redis_url) as backend, running_api(backend, settings) as api:
        yield api
