"""RabbitMQ closes the channel of a delivery that is not acked within `consumer_timeout`."""

import asyncio

import pytest

from tests.support.chat import Prompt, Stream, job_of, reached, session_with, streaming
from tests.support.cluster import Cluster, all_settled
from tests.support.rabbitmq import RabbitMQ
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.long

LONG = Prompt(seed=500, tokens=100, itl=90)
SHORT = [Prompt(seed=100 * number, tokens=30, itl=40, constrained=number % 2 == 1) for number in range(4)]


async def test_a_job_that_outlasts_the_consumer_timeout_runs_on(
    cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    async with rabbitmq_server.consumer_timeout(2):
        api, (worker,) = await cluster.with_workers(1)

        async with streaming(api.url, [LONG]) as (long,):
            await reached([long], 10)
            others = await asyncio.gather(*(one_after_another(api.url, SHORT) for _ in range(3)))

    streams = [long, *(stream for line in others for stream in line)]
    for stream in streams:
        stream.assert_whole()
    async with session_with(api.url) as session:
        assert [(await job_of(session, stream.job_id))["attempts"] for stream in streams] == [1] * len(streams)
    assert worker.output.count("rabbitmq.queue_lost") >= 2, "the broker closed its channel each time"
    assert worker.output.count("delivery.adopted") >= 2, "and delivered the long job again"
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


async def one_after_another(url: str, prompts: list[Prompt]) -> list[Stream]:
    done: list[Stream] = []
    for prompt in prompts:
        async with streaming(url, [prompt]) as (stream,):
            done.append(stream)
    return done
