"""Processes get SIGTERM, also while servers are unavailable: no call fails, and each ends in bounded time."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace

import aiohttp
import pytest

from tests.faults.test_worker_lost import attempts_of
from tests.support.chat import Prompt, Stream, ended, reached, session_with, streaming, submit
from tests.support.cluster import Cluster, all_settled
from tests.support.load import answered, load_on
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.long

ONE_TRY = ("--drain", "0.2", "--max-tries", "1")
"""Too little time to finish in, and not one failure allowed: only what is handed back uncounted completes."""

LONG = Prompt(seed=3, tokens=80, itl=60)
SOON = 60.0
"""Seconds for a process to end whose broker or store has gone: what a supervisor waits before it kills."""


@pytest.mark.parametrize("surge", [True, False], ids=["new-one-first", "old-one-first"])
async def test_a_rolling_restart_of_all_workers_fails_no_call(
    cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str, surge: bool
) -> None:
    api, workers = await cluster.with_workers(3, *ONE_TRY)

    async with load_on(api.url) as load:
        for leaving in workers:
            await wait_until(lambda: any(3 < len(stream.frames) < 20 for stream in load.streams), "a stream to run")
            if surge:
                await cluster.worker(*ONE_TRY)
            leaving.send(signal.SIGTERM)
            await leaving.expect_exit(0)
            if not surge:
                await cluster.worker(*ONE_TRY)

    assert max(await load.attempts()) > 1, "some were handed back"
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


async def test_a_drained_worker_finishes_its_jobs_and_takes_no_new_ones(cluster: Cluster) -> None:
    api, (leaving, staying) = await cluster.with_workers(2)

    async with streaming(api.url, [LONG] * 4) as streams:
        await reached(streams, 10)
        leaving.send(signal.SIGTERM)
        await leaving.wait_for("worker.draining")
        async with session_with(api.url) as session:
            new = [await submit(session, Prompt(seed=7)) for _ in range(4)]
            assert [(await ended(session, job))["attempts"] for job in new] == [1] * 4

    finished = await leaving.expect_exit(0)
    for stream in streams:
        stream.assert_whole()
    assert await attempts_of(api.url, streams) == [1] * 4
    assert any(stream.job_id in finished for stream in streams), "it had some"
    assert all(job in staying.output and job not in finished for job in new)


async def test_after_a_second_sigterm_another_worker_continues_the_jobs(cluster: Cluster) -> None:
    api, (leaving, _) = await cluster.with_workers(2)

    async with streaming(api.url, [replace(LONG, tokens=120)] * 4) as streams:
        await reached(streams, 10)
        leaving.send(signal.SIGTERM)
        await leaving.wait_for("worker.draining")
        leaving.send(signal.SIGTERM)
        await leaving.expect_exit(128 + signal.SIGTERM)
        assert all(len(stream.frames) < 120 for stream in streams), "it did not wait for the jobs' end"

    for stream in streams:
        stream.assert_whole()
    assert set(await attempts_of(api.url, streams)) == {1, 2}, "each worker had some"


@pytest.mark.parametrize("breaks", [TcpProxy.refuse, TcpProxy.stall], ids=["refused", "silent"])
async def test_workers_stop_while_the_broker_or_the_store_is_unavailable(
    cluster: Cluster,
    rabbitmq_server: RabbitMQ,
    vhost: str,
    redis_server: Redis,
    redis_database: int,
    breaks: Callable[[TcpProxy], None],
) -> None:
    async with TcpProxy(rabbitmq_server.amqp_port) as to_broker, TcpProxy(redis_server.port) as to_store:
        api, *leaving = await asyncio.gather(
            cluster.api(),
            cluster.worker(*ONE_TRY, IGNITE_AMQP_URL=rabbitmq_server.url(vhost, to_broker.port)),
            cluster.worker(*ONE_TRY, IGNITE_REDIS_URL=redis_server.url(redis_database, to_store.port)),
        )
        async with streaming(api.url, [LONG] * 4) as streams:
            await reached(streams, 10)
            breaks(to_broker)
            breaks(to_store)
            for worker in leaving:
                worker.send(signal.SIGTERM)
            await asyncio.gather(*(worker.wait(SOON) for worker in leaving))
            await cluster.worker()

    for stream in streams:
        stream.assert_whole()
    assert all("Traceback" not in worker.output for worker in leaving)


async def test_an_api_finishes_its_open_streams_and_refuses_new_calls(cluster: Cluster) -> None:
    leaving, staying, _ = await asyncio.gather(cluster.api(), cluster.api(), cluster.worker())

    async with (
        session_with(leaving.url) as known,
        session_with(leaving.url) as unknown,
        session_with(staying.url) as elsewhere,
        streaming(leaving.url, [LONG]) as (stream,),
    ):
        assert await answered(known, Prompt()), "a client with a connection"
        await reached([stream], 10)
        leaving.process.send(signal.SIGTERM)
        await wait_until(lambda: is_refused(known), "new calls to be refused")
        assert await is_refused(unknown)
        assert await answered(elsewhere, Prompt())

    await leaving.process.expect_exit(0)
    stream.assert_whole()


async def test_a_stream_that_outlasts_the_drain_can_be_resumed_on_another_replica(cluster: Cluster) -> None:
    leaving, staying, _ = await asyncio.gather(cluster.api("--drain", "1"), cluster.api(), cluster.worker())
    stream = Stream(Prompt(seed=5, tokens=80, itl=60))

    async with session_with(leaving.url) as session:
        reading = asyncio.create_task(stream.read(session, store=True))
        await reached([stream], 10)
        leaving.process.send(signal.SIGTERM)
        await asyncio.wait([reading])
        reading.exception()
    await leaving.process.expect_exit(0)

    async with session_with(staying.url) as session:
        job = await ended(session, stream.job_id)
    assert len(stream.frames) < stream.prompt.tokens, "it was cut off"
    assert (job["status"], job["attempts"]) == ("completed", 1)


async def is_refused(session: aiohttp.ClientSession) -> bool:
    """Whether a draining API refuses the call: a closed port, or 503 with the reason."""
    try:
        async with session.post("/v1/chat/completions", json=Prompt(tokens=1).body()) as response:
            answer = await response.json()
    except aiohttp.ClientConnectionError:
        return True
    if response.status == 200:
        return False
    assert (response.status, answer["error"]["code"]) == (503, "shutting_down")
    assert int(response.headers["retry-after"]) > 0
    return True
