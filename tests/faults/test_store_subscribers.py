"""Redis disconnects subscribers, because they are slow or on command: readers get the missed bytes from the log."""

import asyncio

import aiohttp
import pytest

from tests.support.chat import Prompt, job_of, reached, session_with, streaming, submit
from tests.support.cluster import Cluster
from tests.support.redis import Redis
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.long

LIMIT = "client-output-buffer-limit"
LOST = "redis.subscription_lost"


async def test_streams_are_complete_after_redis_disconnected_a_slow_api(
    cluster: Cluster, redis_server: Redis, redis_database: int
) -> None:
    prompts = [Prompt(seed=31 * number, tokens=1500) for number in range(16)]

    with redis_server.configured(LIMIT, "pubsub 64kb 32kb 1", default="pubsub 32mb 8mb 60"):
        async with TcpProxy(redis_server.port) as wire:
            api = await cluster.api(IGNITE_REDIS_URL=redis_server.url(redis_database, wire.port))
            ears = redis_server.subscribers()
            assert len(ears) == 1, "the API's"
            await cluster.worker()

            async with streaming(api.url, prompts) as streams:
                await reached(streams, 10)
                wire.stall()
                await wait_until(lambda: not redis_server.subscribers() & ears, "Redis to cut off the API's ear")
                await wire.resume()

    await api.process.wait_for(LOST)
    for stream in streams:
        stream.assert_whole()


async def test_killed_subscribers_subscribe_again(cluster: Cluster, redis_server: Redis) -> None:
    """The worker's subscription is killed too: a cancel still reaches it."""
    prompts = [Prompt(seed=100 * number, tokens=60, itl=80) for number in range(8)]
    api, (worker,) = await cluster.with_workers(1)

    async with streaming(api.url, prompts) as streams:
        ears = len(redis_server.subscribers())
        for frames in (10, 25, 40):
            await reached(streams, frames)
            assert redis_server.kill_subscribers() == ears
            await wait_until(lambda: len(redis_server.subscribers()) == ears, "all to subscribe again")

    for stream in streams:
        stream.assert_whole()
    async with session_with(api.url) as session:
        records = await asyncio.gather(*(job_of(session, stream.job_id) for stream in streams))
        assert [record["attempts"] for record in records] == [1] * len(records)
        job = await submit(session, Prompt(ttft=60_000))
        await wait_until(lambda: is_running(session, job), "the job to run")
        async with session.post(f"/v1/jobs/{job}/cancel") as response:
            assert (await response.json())["status"] == "cancelled"
    await worker.wait_for("cancelled.*job.finished")


async def is_running(session: aiohttp.ClientSession, job: str) -> bool:
    return (await job_of(session, job))["status"] == "in_progress"
