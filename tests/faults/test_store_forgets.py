"""Redis loses all data (FLUSHALL, a lost disk): jobs in the broker still run, and nothing hangs or contradicts
earlier bytes.
"""

import asyncio
import json
import time
from collections.abc import Sequence

import aiohttp
import pytest

from tests.support.chat import DONE, Prompt, Stream, content_of, ended, reached, session_with, streaming, submit
from tests.support.cluster import Cluster, all_settled
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.long

ERROR = 'data: {"error":'
ENDS_WITHIN = 25.0
ANNOUNCED_WITHIN = 7.0
"""Seconds: a little more than a worker's heartbeat, with which it announces itself again."""


async def complete(session: aiohttp.ClientSession, prompt: Prompt) -> str:
    """Returns the call's text, or its error's code."""
    async with session.post("/v1/chat/completions", json=prompt.body()) as response:
        answer = await response.json()
        return answer["choices"][0]["message"]["content"] if response.status == 200 else answer["error"]["code"]


async def status_of(session: aiohttp.ClientSession, path: str) -> int:
    async with session.get(path) as response:
        return response.status


def waiting_messages(server: RabbitMQ, vhost: str) -> int:
    return sum(queue.messages_ready or 0 for queue in server.queues(vhost))


async def test_waiting_jobs_complete_after_the_store_was_flushed(
    cluster: Cluster, redis_server: Redis, redis_database: int, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    api = await cluster.api(IGNITE_MODELS="simulated")
    background, unary, stream = Prompt(seed=10, itl=5), Prompt(seed=20, itl=5), Stream(Prompt(seed=30, itl=5))

    async with session_with(api.url) as session, asyncio.TaskGroup() as calls:
        job = await submit(session, background)
        calls.create_task(stream.read(session))
        answer = calls.create_task(complete(session, unary))
        await wait_until(lambda: waiting_messages(rabbitmq_server, vhost) == 3, "three messages to wait")
        redis_server.forget(redis_database)
        assert await status_of(session, f"/v1/jobs/{job}") in (404, 410)
        await cluster.worker()
        await wait_until(lambda: known(session, job), "the background job to be known again", ENDS_WITHIN)
        record, content = await ended(session, job), await content_of(session, job)
        await wait_until(lambda: answer.done() and DONE in stream.frames, "the waiting clients' answers", ENDS_WITHIN)

    assert (record["status"], content) == ("completed", background.text)
    assert answer.result() == unary.text
    stream.assert_whole()
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


async def known(session: aiohttp.ClientSession, job: str) -> bool:
    return await status_of(session, f"/v1/jobs/{job}") == 200


async def test_streams_whose_log_is_lost_end_with_an_error_in_time(
    cluster: Cluster, redis_server: Redis, redis_database: int, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    api, _ = await cluster.with_workers(1, "--lease", "6")
    prompts = [Prompt(seed=9 * number, tokens=80, itl=50, constrained=number % 2 > 0) for number in range(6)]

    async with streaming(api.url, prompts) as streams:
        await reached(streams, 10)
        redis_server.forget(redis_database)
        await wait_until(
            lambda: all(DONE in stream.frames for stream in streams),
            "every stream to end",
            ENDS_WITHIN,
            seen=lambda: [stream.frames[-1] for stream in streams],
        )

    print("streams that ended with an error:", sum(stream.frames[-2].startswith(ERROR) for stream in streams))
    for stream in streams:
        assert_whole_or_broken_off(stream)
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


def assert_whole_or_broken_off(stream: Stream) -> None:
    """Asserts that a stream is the whole answer, or its beginning and one error, and ends with one [DONE]."""
    frames = stream.frames
    assert frames.count(DONE) == 1
    if frames[-2].startswith(ERROR):
        assert_broken_off(stream)
    else:
        stream.assert_whole()


def assert_broken_off(stream: Stream) -> None:
    *sent, error, done = stream.frames
    head = json.loads(sent[0].removeprefix("data: "))
    del head["choices"]
    assert head["id"] == stream.job_id
    assert stream.prompt.stream(head).startswith("".join(sent))
    assert json.loads(error.removeprefix("data: "))["error"]["message"]
    assert done == DONE


async def test_a_flushed_store_serves_new_calls(cluster: Cluster, redis_server: Redis, redis_database: int) -> None:
    api, _ = await cluster.with_workers(1)
    new = Prompt(seed=5)
    async with session_with(api.url) as session:
        jobs = [await submit(session, Prompt(seed=number)) for number in range(3)]
        assert {(await ended(session, job))["status"] for job in jobs} == {"completed"}

        redis_server.forget(redis_database)
        looks = [f"/v1/jobs/{job}{path}" for job in jobs for path in ("", "/result", "/events")]
        assert {await status_of(session, look) for look in looks} <= {404, 410}
        said = await keep_calling(session, new, ANNOUNCED_WITHIN)

        assert await listed(session) == ["simulated"]
        assert set(said) == {new.text}, f"{len(said)} calls, from the first after the loss"
    async with streaming(api.url, [new]) as (stream,):
        pass
    stream.assert_whole()


async def keep_calling(session: aiohttp.ClientSession, prompt: Prompt, seconds: float) -> Sequence[str]:
    """Makes one call after the other, until the catalog has been read several times."""
    ends, said = time.monotonic() + seconds, list[str]()
    while time.monotonic() < ends:
        said.append(await complete(session, prompt))
    return said


async def listed(session: aiohttp.ClientSession) -> list[str]:
    async with session.get("/v1/models") as response:
        return [model["id"] for model in (await response.json())["data"]]
