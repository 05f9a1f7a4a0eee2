from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.support.cluster import Cluster, running_cluster
from tests.system.test_up import ready


@pytest.fixture
async def cluster(amqp_url: str, redis_url: str) -> AsyncGenerator[Cluster]:
    async with running_cluster(amqp_url, redis_url) as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[str]:
    """The URL of one `ignite up` for a module's tests, which must run in the module's event loop."""
    async with ready(tmp_path_factory.mktemp("data")) as (_, url):
        yield url
