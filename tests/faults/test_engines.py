"""An engine hangs, dies or does not start: its jobs complete on another worker or later, with equal bytes."""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.faults.test_worker_lost import attempts_of
from tests.support.chat import Prompt, reached, session_with, streaming
from tests.support.cluster import Cluster
from tests.support.engine_server import MANAGED, engine_server
from tests.support.load import answered
from tests.support.run_process import RunningProcess
from tests.support.serving_processes import serving_processes

pytestmark = pytest.mark.long

PROMPTS = [Prompt(seed=100 * number, tokens=60, itl=100) for number in range(6)]
STALL = ("--stall-timeout", "2")


async def test_jobs_of_a_hanging_engine_are_completed_by_another_worker(cluster: Cluster) -> None:
    async with engine_server() as (hanging, hanging_url), engine_server() as (_, healthy_url):
        api, stuck, _ = await asyncio.gather(
            cluster.api(), over_http(cluster, hanging_url), over_http(cluster, healthy_url)
        )
        async with streaming(api.url, PROMPTS) as streams:
            await reached(streams, 5)
            hanging.send(signal.SIGSTOP)
            await stuck.wait_for("engine.unhealthy")
            async with session_with(api.url) as session, asyncio.timeout(60):
                new = await asyncio.gather(*(answered(session, Prompt(seed=7)) for _ in range(6)))
                assert len(new) == 6, "the stuck one keeps none of them to itself"

        for stream in streams:
            stream.assert_whole()
        assert set(await attempts_of(api.url, streams)) == {1, 2}, "each worker had some"
        hanging.send(signal.SIGCONT)
        await stuck.wait_for("engine.healthy")


async def test_jobs_continue_and_new_ones_run_after_an_engine_process_died(cluster: Cluster) -> None:
    api, bereft, _ = await asyncio.gather(cluster.api(), cluster.worker(*MANAGED), cluster.worker(*MANAGED))

    async with streaming(api.url, PROMPTS) as streams:
        await reached(streams, 5)
        os.kill(serving_process(bereft), signal.SIGKILL)
        await bereft.wait_for("engine.unhealthy")
        async with session_with(api.url) as session, asyncio.timeout(60):
            await asyncio.gather(*(answered(session, Prompt(seed=7)) for _ in range(6)))
        await bereft.wait_for("engine.process_restarted")

    for stream in streams:
        stream.assert_whole()
    assert set(await attempts_of(api.url, streams)) == {1, 2}, "each worker had some"


async def test_streams_continue_after_the_only_engine_process_was_replaced(cluster: Cluster) -> None:
    api, worker = await asyncio.gather(cluster.api(), cluster.worker(*MANAGED))

    async with streaming(api.url, PROMPTS) as streams:
        await reached(streams, 5)
        os.kill(serving_process(worker), signal.SIGKILL)

    for stream in streams:
        stream.assert_whole()
    assert worker.returncode is None
    assert await attempts_of(api.url, streams) == [2] * len(streams)


async def test_a_stopped_engine_process_is_replaced(cluster: Cluster) -> None:
    api, worker = await asyncio.gather(cluster.api(), cluster.worker(*MANAGED, *STALL))

    async with streaming(api.url, [replace(prompt, tokens=150) for prompt in PROMPTS]) as streams:
        await reached(streams, 5)
        os.kill(stopped := serving_process(worker), signal.SIGSTOP)
        await worker.wait_for("engine.process_restarted", within=90)

    for stream in streams:
        stream.assert_whole()
    assert serving_process(worker) != stopped


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("vllm", "--model", "m", "--engine-command", "false {port}"), "has ended with status 1"),
        (("vllm", "--model", "m", "--engine-command", "no-such-command {port}"), "no-such-command"),
        (("openai", "--engine-url", "http://127.0.0.1:1/v1", "--engine-start-timeout", "0.5"), "has not answered"),
        (("llamacpp", "--model", "no-such.gguf"), "There is no model file no-such.gguf"),
    ],
    ids=["command-fails", "no-command", "no-server", "no-model"],
)
async def test_an_engine_that_does_not_start_ends_the_worker_with_one_sentence(
    cluster: Cluster, options: Sequence[str], says: str
) -> None:
    worker = await cluster.unready_worker("--engine", *options)
    output = await worker.expect_exit(1)

    (sentence,) = (line for line in output.splitlines() if not line.startswith("{"))
    assert sentence.startswith("ignite: ") and says in sentence


async def over_http(cluster: Cluster, url: str) -> RunningProcess:
    return await cluster.worker("--engine", "openai", "--engine-url", url, *STALL, "--retry-backoff", "0.1")


def serving_process(worker: RunningProcess) -> int:
    """Returns the serving process, a child of the guardian, which is the worker's child."""
    [(_, serving)] = serving_processes(worker.pid)
    return serving
