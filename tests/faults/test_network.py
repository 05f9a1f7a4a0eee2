"""Connections fall silent, links are cut, readers stop reading: other workers take over, and other clients are
unaffected.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.chat import DONE, Prompt, Stream, job_of, reached, session_with, streaming, submit
from tests.support.cluster import WORKER_READY, Cluster
from tests.support.namespace import namespace, why_no_namespaces
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis
from tests.support.run_process import RunningProcess, run_process
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.long

LEASE, HEARTBEAT = 3, 2
TAKEN_OVER_WITHIN = 60.0
SILENCE = 15.0
LONG_NAME = "simulated-" + 190 * "x"
"""Every frame carries it: much to send for little work."""
LONG = [Prompt(seed=number, tokens=35_000) for number in range(3)]
"""Fourteen megabytes each. Linux holds some four of them for a client that does not read."""
MEMORY_BOUND = 4 * 2**20


@dataclass(frozen=True)
class Servers:
    rabbitmq: RabbitMQ
    vhost: str
    redis: Redis
    database: int


@pytest.fixture
def servers(rabbitmq_server: RabbitMQ, vhost: str, redis_server: Redis, redis_database: int) -> Servers:
    return Servers(rabbitmq_server, vhost, redis_server, redis_database)


@dataclass(frozen=True)
class Site:
    """A worker whose connections to both servers can be silenced."""

    worker: RunningProcess
    silence: Callable[[], None]
    restore: Callable[[], Awaitable[None]]


Partition = Callable[[Servers], AbstractAsyncContextManager[Site]]


@asynccontextmanager
async def wires(servers: Servers, address: str = "127.0.0.1") -> AsyncGenerator[tuple[TcpProxy, TcpProxy]]:
    async with (
        TcpProxy(servers.rabbitmq.amqp_port, address=address) as to_broker,
        TcpProxy(servers.redis.port, address=address) as to_store,
    ):
        yield to_broker, to_store


@asynccontextmanager
async def worker_behind(
    servers: Servers, ports: Sequence[int], address: str = "127.0.0.1", entry: Sequence[str] = ()
) -> AsyncGenerator[RunningProcess]:
    amqp, redis = servers.rabbitmq.url(servers.vhost, ports[0]), servers.redis.url(servers.database, ports[1])
    env = {
        "IGNITE_AMQP_URL": f"{amqp}?heartbeat={HEARTBEAT}".replace("127.0.0.1", address),
        "IGNITE_REDIS_URL": redis.replace("127.0.0.1", address),
    }
    command = (*entry, sys.executable, "-m", "ignite", "worker", "--engine", "simulated", "--lease", str(LEASE))
    async with run_process(*command, env=env, ready=WORKER_READY) as worker:
        try:
            yield worker
        finally:
            print(f"--- the worker in the partition ---\n{worker.output}", file=sys.stderr)


@asynccontextmanager
async def stalled_wires(servers: Servers) -> AsyncGenerator[Site]:
    """Connections stay open, new ones are accepted, but no bytes pass."""
    async with (
        wires(servers) as (to_broker, to_store),
        worker_behind(servers, [to_broker.port, to_store.port]) as worker,
    ):

        def silence() -> None:
            to_broker.stall()
            to_store.stall()

        async def restore() -> None:
            await to_broker.resume()
            await to_store.resume()

        yield Site(worker, silence, restore)


@asynccontextmanager
async def pulled_cable(servers: Servers) -> AsyncGenerator[Site]:
    """A separate network namespace, as on another machine, with a dead link."""
    if reason := why_no_namespaces():
        pytest.skip(f"NOT TESTED, a worker behind a pulled cable: {reason}")
    with namespace() as place:
        async with (
            wires(servers, place.address) as (to_broker, to_store),
            worker_behind(servers, [to_broker.port, to_store.port], place.address, place.entry) as worker,
        ):

            async def restore() -> None:
                place.plug_in()

            yield Site(worker, place.pull, restore)


@pytest.mark.parametrize("partition", [stalled_wires, pulled_cable])
async def test_a_partitioned_worker_is_replaced_then_fenced_then_serves_again(
    cluster: Cluster, servers: Servers, partition: Partition
) -> None:
    prompts = [Prompt(seed=100 * number, tokens=80, itl=100, constrained=number % 4 > 1) for number in range(8)]
    async with partition(servers) as site:
        api, (heir,) = await cluster.with_workers(1)
        async with streaming(api.url, prompts) as streams:
            await reached(streams, 5)
            site.silence()
            silent_since = time.monotonic()
            await heir.wait_for("attempt.resumes", TAKEN_OVER_WITHIN)
            print(f"taken over after {time.monotonic() - silent_since:.1f} s of silence")
            await site.restore()
            await site.worker.wait_for("attempt.fenced")

        for stream in streams:
            stream.assert_whole()
        assert await heir.stop() == 0
        async with session_with(api.url) as session:
            records = [await job_of(session, stream.job_id) for stream in streams]
            assert {record["attempts"] for record in records} == {1, 2}, "each worker had some"
            await assert_of_use(session, site.worker)


async def assert_of_use(session: aiohttp.ClientSession, worker: RunningProcess) -> None:
    """Asserts that the worker takes jobs and receives cancels."""
    job = await submit(session, Prompt(ttft=60_000))
    await wait_until(lambda: has_status(session, job, "in_progress"), "the worker to take a job", within=60)
    new = Prompt(seed=5)
    async with session.post("/v1/chat/completions", json=new.body()) as response:
        assert (await response.json())["choices"][0]["message"]["content"] == new.text
    async with session.post(f"/v1/jobs/{job}/cancel") as response:
        assert (await response.json())["status"] == "cancelled"
    await worker.wait_for("cancelled.*job.finished")


async def has_status(session: aiohttp.ClientSession, job: str, status: str) -> bool:
    return (await job_of(session, job))["status"] == status


async def test_apis_continue_after_their_connections_to_the_store_fell_silent(
    cluster: Cluster, servers: Servers
) -> None:
    """One connection stalls and recovers. The other is dead without either end being notified; only new connections
    work.
    """
    prompts = [Prompt(seed=100 * number, tokens=80, itl=100) for number in range(4)]
    async with TcpProxy(servers.redis.port) as stalling, TcpProxy(servers.redis.port) as losing:
        stalled, lost, _ = await asyncio.gather(
            cluster.api(IGNITE_REDIS_URL=servers.redis.url(servers.database, stalling.port)),
            cluster.api(IGNITE_REDIS_URL=servers.redis.url(servers.database, losing.port)),
            cluster.worker(),
        )
        async with streaming(stalled.url, prompts) as behind_stall, streaming(lost.url, prompts) as behind_loss:
            await reached([*behind_stall, *behind_loss], 10)
            stalling.stall()
            await losing.lose()
            assert not all_done([*behind_stall, *behind_loss]), "too late to hurt anybody"
            began = time.monotonic()
            await wait_until(lambda: time.monotonic() > began + SILENCE, "the silence to end", 2 * SILENCE)
            await stalling.resume()
            await wait_until(lambda: all_done(behind_stall), "the streams behind the wire that flows again")
            await wait_until(lambda: all_done(behind_loss), "the streams behind the dead wire")
            print(f"the dead wire was noticed within {time.monotonic() - began:.1f} s")

    for stream in [*behind_stall, *behind_loss]:
        stream.assert_whole()


def all_done(streams: Sequence[Stream]) -> bool:
    return all(DONE in stream.frames for stream in streams)


class LateStream(Stream):
    """A stream whose client reads nothing, not even the headers, until `read` is called."""

    def __init__(self, prompt: Prompt) -> None:
        super().__init__(prompt)
        self.go = asyncio.Event()

    async def read(self, session: aiohttp.ClientSession, **more: Any) -> None:
        async with session.post("/v1/chat/completions", json=self.prompt.body(stream=True, **more)) as response:
            self.status, self.job_id = response.status, response.headers["x-job-id"]
            await self.go.wait()
            self._data += await response.content.read()


async def test_slow_readers_cost_bounded_memory_and_delay_no_other_reader(cluster: Cluster) -> None:
    api, _ = await cluster.with_workers(1, "--model-id", LONG_NAME)
    late, prompts = [LateStream(prompt) for prompt in LONG], [Prompt(seed=number, tokens=100) for number in range(4)]
    async with streaming(api.url, prompts, model=LONG_NAME):
        pass  # what the first calls cost stays
    before = forget_peak(api.process.pid)

    async with session_with(api.url) as session, asyncio.TaskGroup() as calls:
        for stream in late:
            calls.create_task(stream.read(session, model=LONG_NAME))
        async with streaming(api.url, prompts, model=LONG_NAME) as others:
            pass
        await wait_until(lambda: all(stream.job_id for stream in late), "the long streams to begin")
        for stream in late:
            await wait_until(lambda job=stream.job_id: has_status(session, job, "completed"), "the jobs' end", 120)
        cost = peak(api.process.pid) - before
        for stream in late:
            stream.go.set()

    print(f"memory: {cost / 2**20:.1f} MiB")
    assert cost < MEMORY_BOUND
    for stream in [*others, *late]:
        stream.assert_whole()


def forget_peak(pid: int) -> int:
    """Resets the process's peak memory to its current memory."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak(pid)


def peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
