"""RabbitMQ's memory alarm blocks publishers: running jobs continue, and submits are refused within seconds."""

import asyncio

import aiohttp
import pytest

from tests.support.chat import Gate, Prompt, job_of, reached, session_with, streaming
from tests.support.cluster import Cluster, all_settled
from tests.support.rabbitmq import RabbitMQ
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.long

NEW = Prompt(seed=5)


async def test_under_a_memory_alarm_streams_end_and_submits_are_refused(
    cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str, gate: Gate
) -> None:
    """A submit that waited for the alarm's end would hold this test up until its timeout."""
    api, (worker,) = await cluster.with_workers(1)
    prompts = [Prompt(seed=100 * number, tokens=80, gate=gate) for number in range(4)]

    async with session_with(api.url) as session:
        async with streaming(api.url, prompts) as streams:
            await reached(streams, 10)
            async with rabbitmq_server.memory_alarm():
                await refused(session, stream=True)
                await asyncio.gather(
                    refused(session), refused(session), refused(session, stream=True), refused(session, background=True)
                )
                gate.open()
                await wait_until(lambda: all(stream.frames[-1].endswith("[DONE]\n\n") for stream in streams))
                assert [(await job_of(session, stream.job_id))["status"] for stream in streams] == ["completed"] * 4
                assert await listed(session) == {stream.job_id for stream in streams}
        async with session.post("/v1/chat/completions", json=NEW.body()) as accepted:
            completion = await accepted.json()

        assert (accepted.status, completion["choices"][0]["message"]["content"]) == (200, NEW.text)
        for stream in streams:
            stream.assert_whole()
        # The broker had the refused ones in its socket, and takes them in now.
        await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")
        assert await listed(session) == {completion["id"], *(stream.job_id for stream in streams)}
        assert worker.output.count("job.finished") == len(streams) + 1, "what was refused is not run"


async def refused(session: aiohttp.ClientSession, **way: bool) -> None:
    async with session.post("/v1/chat/completions", json=NEW.body(**way)) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (503, "broker_unavailable")
    assert 1 <= int(response.headers["retry-after"]) <= 120


async def listed(session: aiohttp.ClientSession) -> set[str]:
    async with session.get("/v1/jobs", params={"limit": 100}) as response:
        return {job["id"] for job in (await response.json())["data"]}
