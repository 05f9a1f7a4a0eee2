"""The connection to RabbitMQ breaks during streams: they continue, no job runs twice, and each message is acked."""

import asyncio

import pytest

from tests.support.chat import Prompt, job_of, reached, session_with, streaming
from tests.support.cluster import Cluster, all_settled
from tests.support.rabbitmq import RabbitMQ
from tests.support.run_process import RunningProcess
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.long

PROMPTS = [Prompt(seed=100 * number, tokens=100, itl=100, constrained=number % 2 == 1) for number in range(6)]
NEW = Prompt(seed=5)


@pytest.mark.parametrize("fault", ["cut", "refused", "stalled"])
async def test_jobs_run_on_while_the_connection_to_the_broker_is(
    fault: str, cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    """Stalled: for longer than both heartbeats allow. The API's own connection is broken in the same way."""
    async with TcpProxy(rabbitmq_server.amqp_port) as wire, TcpProxy(rabbitmq_server.amqp_port) as apis_wire:
        url, apis_url = (f"{rabbitmq_server.url(vhost, each.port)}?heartbeat=2" for each in (wire, apis_wire))
        api, *workers = await asyncio.gather(
            cluster.api(IGNITE_AMQP_URL=apis_url),
            cluster.worker(IGNITE_AMQP_URL=url),
            cluster.worker(IGNITE_AMQP_URL=url),
        )
        async with streaming(api.url, PROMPTS) as streams:
            await reached(streams, 5)
            for each in (wire, apis_wire):
                {"cut": each.cut, "refused": each.refuse, "stalled": each.stall}[fault]()
            await asyncio.gather(*(noticed(process, fault) for process in [api.process, *workers]))
            for each in (wire, apis_wire):
                await each.resume()

        for stream in streams:
            stream.assert_whole()
        async with session_with(api.url) as session:
            assert [(await job_of(session, stream.job_id))["attempts"] for stream in streams] == [1] * len(streams)
            async with session.post("/v1/chat/completions", json=NEW.body()) as accepted:
                completion = await accepted.json()
        assert (accepted.status, completion["choices"][0]["message"]["content"]) == (200, NEW.text)
        await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


async def noticed(process: RunningProcess, fault: str) -> None:
    """Waits until the client has tried to connect several times to a closed port."""
    await process.wait_for("rabbitmq.queue_lost")
    if fault == "refused":
        await wait_until(lambda: process.output.count("rabbitmq.queue_away") >= 4)
