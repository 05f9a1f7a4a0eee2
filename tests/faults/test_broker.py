"""RabbitMQ stops, closes connections or restarts: running jobs continue, and each ends once."""

from tests.support.chat import Gate, Prompt, job_of, reached, session_with, streaming
from tests.support.cluster import Cluster, all_settled
from tests.support.rabbitmq import RabbitMQ
from tests.support.wait_until import wait_until


def prompts(gate: Gate) -> list[Prompt]:
    return [Prompt(seed=100 * number, tokens=80, gate=gate) for number in range(4)]


async def test_jobs_run_on_when_the_broker_closes_its_connections(
    cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str, gate: Gate
) -> None:
    api, workers = await cluster.with_workers(2)

    async with streaming(api.url, prompts(gate)) as streams:
        await reached(streams, 5)
        await wait_until(lambda: rabbitmq_server.close_connections(vhost) >= 3, "connections to close")
        await wait_until(
            lambda: any("delivery.adopted" in worker.output for worker in workers),
            "a job's delivery to come to its worker again",
        )
        gate.open()

    for stream in streams:
        stream.assert_whole()
    async with session_with(api.url) as session:
        assert [(await job_of(session, stream.job_id))["attempts"] for stream in streams] == [1] * len(streams)
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


async def test_without_a_broker_streams_continue_and_submits_are_refused(
    cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str, gate: Gate
) -> None:
    """Stops RabbitMQ instead of killing it: after kill -9, RabbitMQ 3.10 may lose the leader of a new quorum queue."""
    api, _ = await cluster.with_workers(1)
    new = Prompt(seed=5)

    async with streaming(api.url, prompts(gate)) as streams, session_with(api.url) as session:
        await reached(streams, 5)
        await rabbitmq_server.stop()
        async with session.post("/v1/chat/completions", json=new.body()) as refused:
            error = (await refused.json())["error"]
        async with session.get("/healthz") as health:
            assert health.status == 200
        await rabbitmq_server.start()
        async with session.post("/v1/chat/completions", json=new.body()) as accepted:
            completion = await accepted.json()
        gate.open()

    assert (refused.status, error["code"]) == (503, "broker_unavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert (accepted.status, completion["choices"][0]["message"]["content"]) == (200, new.text)
    for stream in streams:
        stream.assert_whole()
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")
