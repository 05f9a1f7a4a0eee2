"""A worker dies while it runs a piggybacked job: both jobs continue, the piggybacked one at once."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp

from tests.support.chat import Gate, Prompt, Stream, ended, job_of, reached, submit
from tests.support.cluster import Cluster, all_settled
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis
from tests.support.wait_until import wait_until

KEYS = {"IGNITE_API_KEYS": "flood=sk-flood-123-0123456789,late=sk-late-456-0123456789"}
FLOOD, LATE = "sk-flood-123-0123456789", "sk-late-456-0123456789"
WAITING = Prompt(seed=1, tokens=20, itl=10)
LONG = Prompt(seed=500, tokens=150)


@asynccontextmanager
async def session_of(url: str, key: str) -> AsyncGenerator[aiohttp.ClientSession]:
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(url, headers=headers, timeout=aiohttp.ClientTimeout(None)) as session:
        yield session


async def attempts_of(session: aiohttp.ClientSession, jobs: Sequence[str]) -> list[int]:
    return [(await job_of(session, job_id))["attempts"] for job_id in jobs]


async def test_the_next_worker_continues_the_piggybacked_job_of_a_killed_one(
    cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str, redis_server: Redis, redis_database: int, gate: Gate
) -> None:
    """With one slot and a backlog of ten seconds before the stream's own message, the stream continues much earlier."""
    api, victim = await asyncio.gather(cluster.api(**KEYS), cluster.worker("--concurrency", "1"))

    async with session_of(api.url, FLOOD) as flood, session_of(api.url, LATE) as late:
        jobs = [await submit(flood, WAITING) for _ in range(50)]
        stream = Stream(replace(LONG, gate=gate))
        reading = asyncio.create_task(stream.read(late))
        await reached([stream], 10)
        victim.kill()
        gate.open()
        await cluster.worker("--concurrency", "1")
        await reading
        stream.assert_whole()
        waiting = [job_id for job_id in jobs if (await job_of(flood, job_id))["status"] == "queued"]
        assert len(waiting) > 20, "the flood waited for it, not it for the flood"

        assert await attempts_of(late, [stream.job_id]) == [2]
        assert [(await ended(flood, job_id))["status"] for job_id in jobs] == ["completed"] * 50
        await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")
        assert redis_server.keys_without_expiry(redis_database) == []
