"""A worker dies, hangs or drains during streams: clients get the same bytes as without a fault."""

import signal
from collections.abc import Sequence

from tests.support.chat import Gate, Prompt, Stream, job_of, reached, session_with, streaming
from tests.support.cluster import Cluster


def prompts(gate: Gate) -> list[Prompt]:
    """Prompts whose streams pause in the middle until the gate opens."""
    return [Prompt(seed=100 * number, tokens=50, constrained=number % 4 > 1, gate=gate) for number in range(8)]


async def attempts_of(url: str, streams: Sequence[Stream]) -> list[int]:
    async with session_with(url) as session:
        return [(await job_of(session, stream.job_id))["attempts"] for stream in streams]


async def test_another_worker_continues_the_streams_of_a_killed_one(cluster: Cluster, gate: Gate) -> None:
    api, (victim, _) = await cluster.with_workers(2)

    async with streaming(api.url, prompts(gate)) as streams:
        await reached(streams, 5)
        victim.kill()
        gate.open()

    for stream in streams:
        stream.assert_whole()
    assert set(await attempts_of(api.url, streams)) == {1, 2}, "each worker had some"
    print(f"longest silence: {max(stream.longest_silence for stream in streams):.3f} s")


async def test_streams_wait_for_a_new_worker_when_the_only_one_is_killed(cluster: Cluster, gate: Gate) -> None:
    api, (victim,) = await cluster.with_workers(1)

    async with streaming(api.url, prompts(gate)) as streams:
        await reached(streams, 5)
        victim.kill()
        await cluster.worker()
        gate.open()

    for stream in streams:
        stream.assert_whole()
    assert await attempts_of(api.url, streams) == [2] * len(streams)


async def test_a_worker_that_was_stopped_past_its_lease_is_fenced(cluster: Cluster, amqp_url: str, gate: Gate) -> None:
    # The broker gives a silent worker's deliveries to others after two missed heartbeats.
    api = await cluster.api()
    zombie = await cluster.worker("--lease", "2", IGNITE_AMQP_URL=f"{amqp_url}?heartbeat=2")

    async with streaming(api.url, [Prompt(tokens=60, gate=gate)]) as (stream,):
        await reached([stream], 10)
        zombie.send(signal.SIGSTOP)
        heir = await cluster.worker()
        await heir.wait_for("attempt.resumes")
        zombie.send(signal.SIGCONT)
        await zombie.wait_for("attempt.fenced")
        gate.open()

    stream.assert_whole()
    assert await attempts_of(api.url, [stream]) == [2]


async def test_a_drained_worker_requeues_jobs_that_it_cannot_finish(cluster: Cluster, gate: Gate) -> None:
    api, (leaving, _) = await cluster.with_workers(2, "--drain", "0", "--max-tries", "1")

    async with streaming(api.url, prompts(gate)) as streams:
        await reached(streams, 5)
        leaving.send(signal.SIGTERM)
        await leaving.expect_exit(0)
        gate.open()

    for stream in streams:
        stream.assert_whole()
    assert set(await attempts_of(api.url, streams)) == {1, 2}, "an attempt more, but no try: one is all they have"
