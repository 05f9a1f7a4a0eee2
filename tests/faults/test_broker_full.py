"""Submits to a full queue are refused, and accepted again when there is room."""

import asyncio

import aiohttp
import pytest

from tests.support.chat import Prompt, content_of, ended, reached, session_with, streaming, submit
from tests.support.cluster import Cluster, all_settled
from tests.support.rabbitmq import RabbitMQ
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.long

LIMIT = 3
"""RabbitMQ's quorum queues refuse once there are more, and may take another one in until the news is out."""

OPTIONS = ("--queue-limit", str(LIMIT))
PROMPT = Prompt(seed=700)


async def test_without_a_worker_submits_are_refused_at_the_queue_limit(
    cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    api = await cluster.api("--models", "simulated", *OPTIONS)

    async with session_with(api.url) as session:
        accepted = await filled(session)
        await asyncio.gather(refused(session), refused(session, stream=True), refused(session, background=True))
        assert await listed(session) == accepted

        await cluster.worker(*OPTIONS)
        await all_completed(session, accepted)
        await all_completed(session, {await submit(session, PROMPT)})
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


async def test_with_a_busy_worker_submits_are_refused_at_the_queue_limit(
    cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    api, _ = await asyncio.gather(cluster.api(*OPTIONS), cluster.worker(*OPTIONS, "--concurrency", "1"))

    async with session_with(api.url) as session, streaming(api.url, [Prompt(tokens=100, itl=80)]) as (running,):
        await reached([running], 1)
        accepted = await filled(session)
        await asyncio.gather(refused(session), refused(session, stream=True), refused(session, background=True))
        assert await listed(session) == {running.job_id, *accepted}

        await all_completed(session, accepted)
        await all_completed(session, {await submit(session, PROMPT)})
    running.assert_whole()
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


async def filled(session: aiohttp.ClientSession) -> set[str]:
    """Submits jobs until one is refused, and returns the accepted ones."""
    accepted: set[str] = set()
    while len(accepted) < 3 * LIMIT:
        async with session.post("/v1/chat/completions", json=PROMPT.body(background=True)) as response:
            if response.status == 429:
                break
            accepted.add((await response.json())["id"])
    assert LIMIT <= len(accepted) <= 2 * LIMIT
    return accepted


async def refused(session: aiohttp.ClientSession, **way: bool) -> None:
    async with session.post("/v1/chat/completions", json=PROMPT.body(**way)) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (429, "queue_full")
    assert 1 <= int(response.headers["retry-after"]) <= 120


async def all_completed(session: aiohttp.ClientSession, jobs: set[str]) -> None:
    for job in jobs:
        assert (await ended(session, job))["status"] == "completed"
        assert await content_of(session, job) == PROMPT.text


async def listed(session: aiohttp.ClientSession) -> set[str]:
    async with session.get("/v1/jobs", params={"limit": 100}) as response:
        return {job["id"] for job in (await response.json())["data"]}
