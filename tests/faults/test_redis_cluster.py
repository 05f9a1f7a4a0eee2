"""A Redis Cluster changes while jobs run: slots move, a primary is killed, a primary hangs."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence

import aiohttp
import pytest

from shared.backends.distributed import open_distributed
from shared.backends.redis import keys
from shared.errors import BackendUnavailable
from shared.ports import Backend
from shared.settings import SettingsError
from tests.conftest import redis_launcher
from tests.contract.performers import COMPLETED, QUEUE, claimed, created, some_frames
from tests.support.chat import Prompt, Stream, content_of, ended, reached, session_with, streaming, submit
from tests.support.cluster import Cluster, all_settled, running_cluster
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis_cluster import Node, RedisCluster
from tests.support.server import free_ports
from tests.support.wait_until import wait_until

PROMPTS = [Prompt(seed=100 * number, tokens=150, itl=60, constrained=number % 4 > 1) for number in range(30)]
JOBS = [Prompt(seed=7 * number, tokens=60, itl=40) for number in range(10)]


@pytest.fixture
async def backend(redis_cluster: RedisCluster, amqp_url: str) -> AsyncGenerator[Backend]:
    async with open_distributed(amqp_url, redis_cluster.url) as backend:
        yield backend


async def test_a_node_that_is_unavailable_at_the_start_is_skipped(redis_cluster: RedisCluster, amqp_url: str) -> None:
    (nobody,) = free_ports(1)
    async with open_distributed(amqp_url, f"redis://127.0.0.1:{nobody}, {redis_cluster.url}") as backend:
        await created(backend)


async def test_several_servers_that_are_not_a_cluster_are_refused(redis_url: str, amqp_url: str) -> None:
    """Processes connected to different servers would not see each other's jobs."""
    with pytest.raises(SettingsError, match="not a Redis Cluster"):
        async with open_distributed(amqp_url, f"{redis_url},{redis_url}"):
            pass


async def test_a_job_continues_while_its_slot_moves(backend: Backend, redis_cluster: RedisCluster) -> None:
    frames = some_frames(6)
    async with backend.log.follow((job := await created(backend)).id) as follower:
        claim = await claimed(backend, job)
        moving = redis_cluster.move(keys.job(job.id))
        written = b""

        async def write() -> None:
            nonlocal written
            await backend.log.append(job.id, claim.attempt, len(written), frame := frames.pop(0))
            written += frame

        await write()
        moving.begin()
        await write()
        moving.take(keys.job(job.id))
        with pytest.raises(BackendUnavailable):
            await backend.log.append(job.id, claim.attempt, len(written), frames[0])
        moving.take_all()
        await write()
        await write()
        moving.end()
        await write()
        await backend.store.finish(job.id, claim.attempt, len(written), COMPLETED)

        read = b""
        while (update := await follower.next()) is not None and update.ending is None:
            read += update.data
    assert update is not None
    assert read + update.data == written + COMPLETED.frames == await backend.log.read(job.id)


async def test_appends_that_share_a_step_with_one_of_a_moved_slot(
    backend: Backend, redis_cluster: RedisCluster
) -> None:
    """During the move, and after it while the client's slot map is outdated."""
    jobs = [await created(backend) for _ in range(20)]
    claims = [await claimed(backend, job) for job in jobs]
    frames = some_frames(3)
    size = 0

    async def write(frame: bytes) -> None:
        nonlocal size
        await asyncio.gather(*(backend.log.append(each.job_id, each.attempt, size, frame) for each in claims))
        size += len(frame)

    await write(frames[0])
    moving = redis_cluster.move(keys.job(jobs[7].id))
    moving.begin()
    moving.take_all()
    await write(frames[1])
    moving.end()
    await write(frames[2])

    assert [await backend.log.read(job.id) for job in jobs] == [b"".join(frames)] * 20


async def test_a_fair_queue_survives_the_move_of_its_slot(backend: Backend, redis_cluster: RedisCluster) -> None:
    """A step uses many keys of a fair queue; it is refused if the keys are on different nodes."""
    jobs = [await created(backend) for _ in range(3)]
    moving = redis_cluster.move(keys.fair_queue(str(QUEUE)))
    moving.begin()
    with pytest.raises(BackendUnavailable):
        await created(backend)
    moving.take(keys.open_jobs(str(QUEUE)))
    with pytest.raises(BackendUnavailable):
        await created(backend)
    moving.take_all()
    with pytest.raises(BackendUnavailable):
        await created(backend)
    moving.end()
    assert await backend.scheduler.position(jobs[2]) == 2
    assert await backend.scheduler.position(await created(backend)) == 3


@pytest.fixture
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Each primary has a replica."""
    cluster = RedisCluster(redis_launcher(), tmp_path_factory.mktemp("redis-cluster"), replicated=True)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        try:
            runner.run(cluster.start())
            yield cluster
        finally:
            runner.run(cluster.close())


@pytest.fixture
async def cluster(amqp_url: str, replicated: RedisCluster) -> AsyncGenerator[Cluster]:
    async with running_cluster(amqp_url, replicated.url) as cluster:
        yield cluster


@pytest.mark.long
@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_streams_survive_the_loss_of_a_primary(
    how: str, cluster: Cluster, replicated: RedisCluster, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    """The killed primary has the fair queue, so nothing can be submitted until its replica is promoted."""
    api, _ = await cluster.with_workers(2)
    victim = replicated.owner(keys.fair_queue("simulated.default"))

    async with streaming(api.url, PROMPTS) as streams, session_with(api.url) as session:
        jobs = [await submit(session, prompt) for prompt in JOBS]
        await reached(streams, 10)
        there = {stream.job_id for stream in streams if replicated.owner(keys.job(stream.job_id)) is victim}
        elsewhere = {stream.job_id for stream in streams} - there
        await lose(victim, how)
        refused = await refusal(session)
        await wait_until(lambda: is_replaced(replicated, victim), "a replica to be promoted")
        await wait_until(lambda: is_served(session), "new calls to be served")
        victim.resume() if how == "stopped" else await victim.start()
        ends = [await ended(session, job) for job in jobs]
        contents = [await content_of(session, job) for job in jobs]

    assert refused == ("503", True)
    if how == "killed":  # Who was subscribed at one that stands still has to find that out.
        assert max(silences(streams, elsewhere)) < min(silences(streams, there)), "who needs it waits for its heir"
    for stream in streams:
        stream.assert_whole()
    assert [end["status"] for end in ends] == ["completed"] * len(JOBS)
    assert contents == [prompt.text for prompt in JOBS]
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")
    await replicated.whole()
    assert replicated.keys_without_expiry() == []


async def lose(node: Node, how: str) -> None:
    if how == "killed":
        await node.kill()
    else:
        node.pause()


def silences(streams: Sequence[Stream], ids: set[str]) -> list[float]:
    """Returns each stream's longest pause in seconds."""
    return [stream.longest_silence for stream in streams if stream.job_id in ids]


async def refusal(session: aiohttp.ClientSession) -> tuple[str, bool]:
    """Returns a call's status, and whether it has Retry-After."""
    async with session.post("/v1/chat/completions", json=Prompt().body()) as response:
        return str(response.status), "retry-after" in response.headers


async def is_served(session: aiohttp.ClientSession) -> bool:
    async with session.post("/v1/chat/completions", json=Prompt().body()) as response:
        return response.status == 200


def is_replaced(cluster: RedisCluster, victim: Node) -> bool:
    others = [node for node in cluster.running() if node is not victim]
    return sum(node.is_primary for node in others) == 3 and all(node.is_whole for node in others if node.is_primary)
