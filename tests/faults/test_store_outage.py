"""Redis hangs, restarts, or is killed twice: calls wait or are refused in time, and nothing is lost."""

import asyncio
import re
from dataclasses import dataclass, replace

import aiohttp
import pytest

from tests.support.chat import Gate, Prompt, content_of, ended, job_of, reached, session_with, streaming, submit
from tests.support.cluster import Cluster, all_settled
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.long

PAUSE = 10.0
ASKED = re.compile(r"claim\.held|attempt\.resumes")
PROMPTS = [Prompt(seed=100 * number, tokens=60, itl=80, constrained=number % 4 > 1) for number in range(8)]
JOBS = [Prompt(seed=7 * number, tokens=60, itl=40) for number in range(6)]


@dataclass(frozen=True)
class Answer:
    status: int
    retry_after: str | None
    body: str

    def assert_served_or_refused(self) -> None:
        assert self.status in (200, 202, 503), self
        if self.status == 503:
            assert self.retry_after is not None and int(self.retry_after) > 0, self


async def ask(session: aiohttp.ClientSession, method: str, path: str, body: object = None) -> Answer:
    async with session.request(method, path, json=body) as response:
        return Answer(response.status, response.headers.get("retry-after"), await response.text())


async def test_a_hanging_store_delays_running_jobs_and_refuses_new_ones(
    cluster: Cluster, redis_server: Redis, gate: Gate
) -> None:
    """The leases of running jobs expire during the pause, but no other worker takes the jobs."""
    api, _ = await cluster.with_workers(2, "--lease", "5")
    slow, new = Prompt(seed=3, tokens=20, gate=gate), Prompt(seed=5)
    streamed, submitted = ([replace(prompt, itl=0, gate=gate) for prompt in prompts] for prompts in (PROMPTS, JOBS))

    async with streaming(api.url, streamed) as streams, session_with(api.url) as session, asyncio.TaskGroup() as calls:
        jobs = [await submit(session, prompt) for prompt in submitted]
        unary = calls.create_task(ask(session, "POST", "/v1/chat/completions", slow.body()))
        await reached(streams, 10)
        await wait_until(lambda: all_run(session, len(streams) + len(jobs) + 1), "the unary call to run, too")
        async with redis_server.paused(PAUSE):
            asked = [
                *(calls.create_task(ask(session, "POST", "/v1/chat/completions", new.body())) for _ in range(2)),
                calls.create_task(ask(session, "POST", "/v1/chat/completions", new.body(stream=True))),
                calls.create_task(ask(session, "POST", "/v1/chat/completions", new.body(background=True))),
                *(calls.create_task(ask(session, "GET", f"/v1/jobs/{job}")) for job in jobs[:2]),
                calls.create_task(ask(session, "GET", f"/v1/jobs/{jobs[0]}?wait=1")),
            ]
            gate.open()  # What runs meets the pause.
        answers = await asyncio.gather(*asked)
        after = await ask(session, "POST", "/v1/chat/completions", new.body())
        ends = [await ended(session, job) for job in jobs]
        contents = [await content_of(session, job) for job in jobs]

    print("asked in the pause:", [answer.status for answer in answers])
    for answer in answers:
        answer.assert_served_or_refused()
    assert (after.status, new.text in after.body) == (200, True), after
    after.assert_served_or_refused()
    assert (unary.result().status, slow.text in unary.result().body) == (200, True)
    assert contents == [prompt.text for prompt in JOBS]
    async with session_with(api.url) as session:
        records = [*ends, *[await job_of(session, stream.job_id) for stream in streams]]
        assert [record["attempts"] for record in records] == [1] * len(records)
        await wait_until(lambda: none_waits(session), "no refused job to be left in line")
    for stream in streams:
        stream.assert_whole()


async def all_run(session: aiohttp.ClientSession, count: int) -> bool:
    async with session.get("/v1/jobs", params={"status": "in_progress", "limit": 100}) as response:
        return len((await response.json())["data"]) == count


async def none_waits(session: aiohttp.ClientSession) -> bool:
    async with session.get("/v1/jobs", params={"status": "queued"}) as response:
        left = (await response.json())["data"]
    assert left == [], "a submit that was refused has left a record behind"
    return True


async def test_a_store_that_restarts_and_is_killed_twice_loses_nothing(
    cluster: Cluster, redis_server: Redis, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    api, _ = await cluster.with_workers(2)

    async with streaming(api.url, PROMPTS) as streams, session_with(api.url) as session:
        jobs = [await submit(session, prompt) for prompt in JOBS]
        await reached(streams, 5)
        await redis_server.restart()
        await reached(streams, 20)
        for frames in (35, 50):
            await redis_server.kill()
            await redis_server.start()
            await reached(streams, frames)
        ends = [await ended(session, job) for job in jobs]
        contents = [await content_of(session, job) for job in jobs]

    for stream in streams:
        stream.assert_whole()
    assert contents == [prompt.text for prompt in JOBS]
    async with session_with(api.url) as session:
        records = [*ends, *[await job_of(session, stream.job_id) for stream in streams]]
    assert [(record["status"], record["attempts"]) for record in records] == [("completed", 1)] * len(records)
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


async def test_a_live_worker_is_not_declared_dead_after_the_store_lost_its_subscribers(
    cluster: Cluster, redis_server: Redis, rabbitmq_server: RabbitMQ, vhost: str, gate: Gate
) -> None:
    """The broker redelivers while the store is unavailable. When it is back, a worker may check the owner before the
    owner has subscribed again.
    """
    api, workers = await cluster.with_workers(2)

    prompts = [Prompt(seed=9 * number, tokens=100, gate=gate) for number in range(12)]
    async with streaming(api.url, prompts) as streams:
        await reached(streams, 10)
        await wait_until(lambda: len(rabbitmq_server.connections(vhost)) >= 3, "the connections to be listed")
        await redis_server.kill()
        rabbitmq_server.close_connections(vhost)
        await wait_until(
            lambda: any("backend.unavailable" in worker.output for worker in workers), "one to ask the store in vain"
        )
        await redis_server.start()
        await wait_until(
            lambda: redis_server.kill_subscribers() >= 0 and any(ASKED.search(each.output) for each in workers),
            "a worker to have asked about the other's job",
        )
        gate.open()

    for stream in streams:
        stream.assert_whole()
    async with session_with(api.url) as session:
        records = [await job_of(session, stream.job_id) for stream in streams]
    assert [record["attempts"] for record in records] == [1] * len(records)
