"""Redis stops and restarts: no client loses a byte or gets one twice."""

from shared.backends.redis import keys
from tests.support.chat import Gate, Prompt, reached, session_with, streaming
from tests.support.cluster import Cluster, running_cluster
from tests.support.redis import Redis
from tests.support.tcp_proxy import TcpProxy


def prompts(gate: Gate) -> list[Prompt]:
    return [Prompt(seed=100 * number, tokens=60, itl=100, gate=gate) for number in range(8)]


async def test_without_a_store_streams_wait_and_submits_are_refused(
    cluster: Cluster, redis_server: Redis, gate: Gate
) -> None:
    """The private server syncs its file on every write."""
    api, _ = await cluster.with_workers(1)
    new = Prompt(seed=5)

    async with streaming(api.url, prompts(gate)) as streams, session_with(api.url) as session:
        await reached(streams, 5)
        await redis_server.kill()
        gate.open()  # What they say from here on has to wait for the store.
        async with session.post("/v1/chat/completions", json=new.body()) as refused:
            error = (await refused.json())["error"]
        async with session.get("/readyz") as readiness:
            assert readiness.status == 503
        await redis_server.start()
        async with session.post("/v1/chat/completions", json=new.body()) as accepted:
            completion = await accepted.json()

    assert (refused.status, error["type"]) == (503, "server_error")
    assert int(refused.headers["retry-after"]) > 0
    assert (accepted.status, completion["choices"][0]["message"]["content"]) == (200, new.text)
    for stream in streams:
        stream.assert_whole()


async def test_the_end_of_a_log_that_the_store_lost_is_written_again(
    cluster: Cluster, redis_server: Redis, redis_database: int, gate: Gate
) -> None:
    """As after a power cut with everysec, or a failover: the log lacks bytes that clients have read."""
    api, (worker,) = await cluster.with_workers(1)
    running, ending = Prompt(seed=1, tokens=60, itl=50, gate=gate), Prompt(seed=2, tokens=16, gate=gate)

    async with streaming(api.url, [running, ending]) as streams:
        await reached(streams, 8)
        for stream in streams:
            redis_server.forget_end(redis_database, keys.log(stream.job_id), 500)
        gate.open()

    for stream in streams:
        stream.assert_whole()
        with redis_server.client(redis_database) as client:
            assert client.get(keys.log(stream.job_id)) == "".join(stream.frames)
    assert worker.output.count("log.shorter") == 2


async def test_streams_survive_cut_connections_to_the_store(
    amqp_url: str, redis_server: Redis, redis_database: int, gate: Gate
) -> None:
    async with (
        TcpProxy(redis_server.port) as wire,
        running_cluster(amqp_url, redis_server.url(redis_database, wire.port)) as cluster,
    ):
        api, (worker,) = await cluster.with_workers(1, "--lease", "4")

        async with streaming(api.url, prompts(gate)) as streams:
            await reached(streams, 5)
            wire.refuse()
            await worker.wait_for("lease.not_renewed")
            await wire.resume()
            gate.open()

        for stream in streams:
            stream.assert_whole()
