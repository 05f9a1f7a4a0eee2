"""The measured systems, which run during the whole benchmark and are called in turn: the bare servers, Ignite on its
own RabbitMQ and Redis, and Ignite embedded.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.answers import MODEL
from tests.support.rabbitmq import CONFIGURATION, find_rabbitmq, rabbitmq_on_this_machine
from tests.support.redis import Redis, find_redis, redis_on_this_machine
from tests.support.server import free_ports

READY_WITHIN = 60.0
LIMITS = {
    "IGNITE_QUEUE_LIMIT": "10000000",
    "IGNITE_TENANT_QUEUE_LIMIT": "0",
    "IGNITE_MODELS": MODEL,
    "IGNITE_SWEEP": "3600",
    "IGNITE_GRPC_PORT": "0",
}
"""A queue that takes whatever is put into it. The sweeper looks at a queue once a minute, which no measurement here
lasts long enough to share fairly."""


@dataclass
class System:
    """`pids`: the processes whose cost is measured."""

    name: str
    port: int
    pids: dict[str, int]
    starts: dict[str, float] = field(default_factory=dict)
    redis: Redis | None = None


class Spawned:
    def __init__(self, process: asyncio.subprocess.Process, log: Path, seconds: float) -> None:
        self.pid = process.pid
        self.seconds = seconds
        self._process = process
        self._log = log

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), 20)
            except TimeoutError:
                os.killpg(self.pid, signal.SIGKILL)
                await self._process.wait()


@asynccontextmanager
async def spawned(
    *arguments: str, directory: Path, ready: str, env: dict[str, str] | None = None
) -> AsyncGenerator[Spawned]:
    """Starts a Python module as a process and waits until its output says `ready`. Its output goes to a file, as in
    production.
    """
    log = directory / f"{'-'.join(arguments[:2]).replace('/', '')}.{time.monotonic_ns()}.output"
    began = time.perf_counter()
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, **(env or {}), "PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not re.search(ready, log.read_text(errors="replace")):
            if process.returncode is not None or time.perf_counter() > began + READY_WITHIN:
                raise RuntimeError(f"{arguments} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.01)
        running = Spawned(process, log, round(time.perf_counter() - began, 2))
        yield running
    finally:
        await Spawned(process, log, 0.0).stop()


@asynccontextmanager
async def bare(directory: Path) -> AsyncGenerator[System]:
    (port,) = free_ports(1)
    async with spawned("benchmarks.bare", str(port), directory=directory, ready="is ready") as server:
        yield System("bare", port, {"server": server.pid}, {"server": server.seconds})


@asynccontextmanager
async def bare_fastapi(directory: Path) -> AsyncGenerator[System]:
    (port,) = free_ports(1)
    async with spawned("benchmarks.bare_fastapi", str(port), directory=directory, ready="is ready") as server:
        yield System("fastapi", port, {"server": server.pid}, {"server": server.seconds})


@asynccontextmanager
async def embedded(directory: Path) -> AsyncGenerator[System]:
    (port,) = free_ports(1)
    command = ("ignite", "up", "--engine", "simulated", "--model", MODEL, "--port", str(port))
    env = {**LIMITS, "IGNITE_DATA_DIR": str(directory / "embedded"), "IGNITE_CONCURRENCY": "12000"}
    async with spawned(*command, directory=directory, ready="ignite is ready", env=env) as process:
        yield System("embedded", port, {"up": process.pid}, {"up": process.seconds})


class Distributed:
    """Ignite on a private RabbitMQ and a private Redis, with one or several API processes and workers."""

    def __init__(self, directory: Path, env: dict[str, str], processes: int) -> None:
        self._directory = directory
        self._env = env
        self._processes = processes

    def api(self, port: int):
        many = ("--processes", str(self._processes)) if self._processes > 1 else ()
        return spawned(
            "ignite",
            "api",
            "--port",
            str(port),
            *many,
            directory=self._directory,
            ready="ignite api is ready",
            env=self._env,
        )

    def worker(self):
        many = ("--processes", str(self._processes)) if self._processes > 1 else ()
        return spawned(
            "ignite",
            "worker",
            "--engine",
            "simulated",
            "--model",
            MODEL,
            "--concurrency",
            "12000",
            *many,
            directory=self._directory,
            ready="ignite worker is ready",
            env=self._env,
        )


@asynccontextmanager
async def servers(directory: Path) -> AsyncGenerator[tuple[dict[str, str], dict[str, int], Redis]]:
    """RabbitMQ with its defaults, and Redis with an append-only file that is synced once a second, as in
    docker-compose.yml.
    """
    launcher, redis_launcher = find_rabbitmq(), find_redis()
    if launcher is None or redis_launcher is None:
        raise SystemExit("rabbitmq-server and redis-server are needed: scripts/install-servers.sh")
    rabbitmq, redis = rabbitmq_on_this_machine(launcher, directory), redis_on_this_machine(redis_launcher, directory)
    take_back_test_settings(directory)
    try:
        await asyncio.gather(rabbitmq.start(), redis.start())
        with redis.client() as client:
            client.config_set("appendfsync", "everysec")
        env = {
            **LIMITS,
            "IGNITE_NO_AUTH": "true",
            "IGNITE_AMQP_URL": rabbitmq.url("%2F"),
            "IGNITE_REDIS_URL": redis.url(),
        }
        yield env, server_pids(), redis
    finally:
        await asyncio.gather(rabbitmq.close(), redis.close())


def take_back_test_settings(directory: Path) -> None:
    """Removes the tests' advanced settings, with which RabbitMQ counts more often and uses more CPU."""
    for home in directory.glob("*@localhost"):
        (home / "advanced.config").write_text("[].\n")
        configuration = home / "rabbitmq.conf"
        configuration.write_text(configuration.read_text().replace(CONFIGURATION, ""))


def server_pids() -> dict[str, int]:
    """Returns the child processes of this process."""
    found: dict[str, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_ours(int(entry.name)):
            command = (entry / "cmdline").read_bytes()
            found |= {name: int(entry.name) for name in ("redis-server", "beam.smp") if name.encode() in command[:200]}
    return {"redis": found["redis-server"], "rabbitmq": found["beam.smp"]}


def is_ours(pid: int) -> bool:
    try:
        while pid > 1 and pid != os.getpid():
            pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return False
    return pid == os.getpid()


@asynccontextmanager
async def distributed(directory: Path, processes: int = 1) -> AsyncGenerator[System]:
    (port,) = free_ports(1)
    async with servers(directory) as (env, pids, redis):
        cluster = Distributed(directory, env, processes)
        async with cluster.api(port) as api, cluster.worker() as worker:
            starts = {"api": api.seconds, "worker": worker.seconds}
            yield System("distributed", port, {"api": api.pid, "worker": worker.pid, **pids}, starts, redis)
