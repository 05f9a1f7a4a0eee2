from collections.abc import AsyncGenerator

import pytest

from tests.support.cluster import Cluster, running_cluster


@pytest.fixture
async def cluster(amqp_url: str, redis_url: str) -> AsyncGenerator[Cluster]:
    async with running_cluster(amqp_url, redis_url) as cluster:
        yield cluster
