"""A Redis that evicts keys stops the start; one that refuses writes is reported, and Ignite recovers."""

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import pytest

from shared.backends.distributed import open_distributed
from shared.settings import SettingsError
from tests.producer.api import MODEL, Answer, Api, ask, running_api, settings_for_tests
from tests.support.redis import Redis
from tests.support.redis_cluster import RedisCluster
from tests.support.run_process import run_ignite
from tests.support.wait_until import wait_until

POLICY = ("maxmemory-policy", "allkeys-lru", "noeviction")


@contextmanager
def full(server: Redis) -> Generator[None]:
    with server.configured("maxmemory", "1", "0"):
        yield


@contextmanager
def read_only(server: Redis) -> Generator[None]:
    """Makes Redis a replica of an unreachable primary."""
    with server.client() as client:
        client.replicaof("127.0.0.1", "1")
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


async def test_an_evicting_store_stops_the_start(amqp_url: str, redis_url: str, redis_server: Redis) -> None:
    urls = {"IGNITE_AMQP_URL": amqp_url, "IGNITE_REDIS_URL": redis_url}
    with redis_server.configured(*POLICY):
        for command in (("api", "--port", "0"), ("worker", "--engine", "simulated"), ("doctor",)):
            async with run_ignite(*command, env=urls) as process:
                assert await process.wait() == 1, process.output
            assert "maxmemory-policy is allkeys-lru" in process.output
        async with open_distributed(amqp_url, redis_url, eviction=True) as backend:
            assert "evicts" in " ".join(await backend.warnings(0))


async def test_an_evicting_node_of_a_cluster_stops_the_start(amqp_url: str, redis_cluster: RedisCluster) -> None:
    with redis_cluster.primaries()[-1].configured(*POLICY), pytest.raises(SettingsError, match="allkeys-lru"):
        async with open_distributed(amqp_url, redis_cluster.url):
            pass


@pytest.fixture
async def served(amqp_url: str, redis_url: str) -> AsyncIterator[Api]:
    settings = settings_for_tests(amqp_url=amqp_url, redis_url=redis_url)
    async with open_distributed(amqp_url, redis_url) as backend, running_api(backend, settings) as api:
        yield api


@pytest.mark.parametrize("refusing", [full, read_only])
async def test_a_store_that_refuses_writes(
    served: Api, redis_server: Redis, refusing: Callable[[Redis], AbstractContextManager[None]]
) -> None:
    job = await served.submit(ask())
    assert (await served.ended(job))["status"] == "completed"
    with refusing(redis_server):
        ready = await served.get("/readyz")
        answers = [ready, await served.post(ask()), await served.post(ask(background=True))]
        assert (await served.get(f"/v1/jobs/{job}")).status == 200, "reads go on"
    for answer in answers:
        assert answer.status == 503
        assert "accepts no new data" in answer.body.decode()
        assert "127.0.0.1" not in answer.body.decode()
    assert int(answers[1].headers["retry-after"]) >= 1
    assert MODEL in (await wait_until(lambda: works(served), "the store to be written to again")).body.decode()


async def works(api: Api) -> Answer:
    answer = await api.post(ask())
    assert answer.status == 200, answer.body
    return answer
