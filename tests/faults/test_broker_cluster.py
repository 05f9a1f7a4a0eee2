"""One of three RabbitMQ nodes is killed: the other two have every message and continue."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.chat import Gate, Prompt, ended, job_of, reached, session_with, streaming
from tests.support.cluster import all_settled, running_cluster
from tests.support.rabbitmq import RabbitMQ, find_rabbitmq, rabbitmq_cluster_on_this_machine
from tests.support.wait_until import wait_until

NEW = Prompt(seed=5)
pytestmark = pytest.mark.long


def prompts(gate: Gate) -> list[Prompt]:
    return [Prompt(seed=100 * number, tokens=100, gate=gate, constrained=number % 2 == 1) for number in range(6)]


@pytest.fixture(scope="module")
def started(rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RabbitMQ]]:
    """Skips the test if RabbitMQ is missing."""
    if (launcher := find_rabbitmq()) is None:
        pytest.skip("a cluster needs a RabbitMQ that is installed on this machine")
    nodes = rabbitmq_cluster_on_this_machine(launcher, tmp_path_factory.mktemp("nodes"))
    try:
        _finish(_all_running(nodes))
        yield nodes
    finally:
        _finish(_all_closed(nodes))


@pytest.fixture
async def nodes(started: list[RabbitMQ]) -> list[RabbitMQ]:
    """Three running nodes, restarted if an earlier test stopped one."""
    await _all_running(started)
    return started


async def test_the_loss_of_a_leader_node_without_clients_changes_nothing(
    nodes: list[RabbitMQ], redis_url: str, gate: Gate
) -> None:
    apis, workers, lost = nodes
    vhost = apis.create_vhost()
    async with running_cluster(workers.url(vhost), redis_url) as cluster:
        # Queues are led where they are declared.
        declaring = await cluster.worker(IGNITE_AMQP_URL=lost.url(vhost))
        await declaring.stop()
        api, _ = await asyncio.gather(cluster.api(IGNITE_AMQP_URL=apis.url(vhost)), cluster.worker())

        async with session_with(api.url) as session:
            async with streaming(api.url, prompts(gate)) as streams:
                await reached(streams, 10)
                assert apis.leaders(vhost) == {lost.name}
                await lost.kill()
                await accepted_again(session)
                gate.open()
            for stream in streams:
                stream.assert_whole()
            assert [(await job_of(session, stream.job_id))["attempts"] for stream in streams] == [1] * len(streams)
        await wait_until(lambda: all_settled(apis, vhost), "every message to be settled")


async def test_the_clients_of_a_lost_node_connect_to_another_node(
    nodes: list[RabbitMQ], redis_url: str, gate: Gate
) -> None:
    vhost = nodes[0].create_vhost()
    url = ",".join(node.url(vhost) for node in nodes)
    async with running_cluster(url, redis_url) as cluster:
        api, _ = await cluster.with_workers(2)

        async with session_with(api.url) as session:
            async with streaming(api.url, prompts(gate)) as streams:
                await reached(streams, 10)
                lost, *others = sorted(nodes, key=lambda node: clients_of(node, vhost), reverse=True)
                assert clients_of(lost, vhost)
                await lost.kill()
                await accepted_again(session)
                gate.open()
            for stream in streams:
                stream.assert_whole()
            assert [(await job_of(session, stream.job_id))["attempts"] for stream in streams] == [1] * len(streams)
        await wait_until(lambda: all_settled(others[0], vhost), "every message to be settled")


def clients_of(node: RabbitMQ, vhost: str) -> int:
    """Returns the node's client connections."""
    return node.nodes_of_connections(vhost).count(node.name)


async def accepted_again(session: aiohttp.ClientSession) -> None:
    """Each submit is answered, and one of them accepted."""
    refusals: list[str] = []
    job = await wait_until(
        lambda: accepted(session, refusals), "a submit to be accepted", seen=lambda: (len(refusals), refusals[-1:])
    )
    assert (await ended(session, job))["status"] == "completed"


async def accepted(session: aiohttp.ClientSession, refusals: list[str]) -> str:
    """Returns the job's id, empty if the submit was refused."""
    async with session.post("/v1/chat/completions", json=NEW.body(background=True)) as response:
        answer = await response.json()
    assert response.status in (202, 503), answer
    if response.status == 503:
        refusals.append(answer["error"]["message"])
    return answer.get("id", "")


async def _all_running(nodes: list[RabbitMQ]) -> None:
    await asyncio.gather(*(node.ensure_running() for node in nodes))
    await wait_until(
        lambda: all(len(node.running_nodes()) == len(nodes) for node in nodes),
        "the nodes to be one cluster",
        within=120,
    )


async def _all_closed(nodes: list[RabbitMQ]) -> None:
    for node in nodes:
        await node.close()


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Runs in a separate event loop, without changing the tests' loop policy."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(work)
