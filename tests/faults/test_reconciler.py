"""RabbitMQ loses confirmed messages: every accepted job still runs."""

import asyncio

import pytest

from tests.support.chat import Prompt, content_of, ended, job_of, session_with, streaming, submit
from tests.support.cluster import Cluster, all_settled
from tests.support.rabbitmq import RabbitMQ
from tests.support.wait_until import wait_until

JOBS = [Prompt(seed=100 * number) for number in range(5)]
CALL, STREAM = Prompt(seed=700), Prompt(seed=800)
SIMULATED = "ignite.jobs.simulated.default"


@pytest.mark.parametrize("how", ["purged", pytest.param("deleted", marks=pytest.mark.long)])
async def test_jobs_of_a_purged_queue_are_published_again_and_run(
    cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str, how: str
) -> None:
    api = await cluster.api("--models", "simulated", "--sweep", "1")
    async with session_with(api.url) as session, streaming(api.url, [STREAM]) as (stream,):
        calling = asyncio.create_task(called(api.url))
        jobs = [await submit(session, prompt) for prompt in JOBS]
        await wait_until(lambda: rabbitmq_server.depth(vhost, SIMULATED) == len(JOBS) + 2, "all to wait")
        rabbitmq_server.lose(vhost, SIMULATED, keep=how == "purged")
        late = await submit(session, Prompt(seed=900))
        await cluster.worker()

        for job_id, prompt in zip(jobs, JOBS, strict=True):
            assert (await ended(session, job_id))["status"] == "completed"
            assert await content_of(session, job_id) == prompt.text
        assert (await ended(session, late))["status"] == "completed"
        assert await calling == CALL.text
        assert {(await job_of(session, job_id))["attempts"] for job_id in jobs} == {1}, "swept twice or not, run once"
    stream.assert_whole()
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


async def called(url: str) -> str:
    async with (
        session_with(url) as session,
        session.post("/v1/chat/completions", json=CALL.body()) as response,
    ):
        assert response.status == 200, await response.text()
        return (await response.json())["choices"][0]["message"]["content"]
