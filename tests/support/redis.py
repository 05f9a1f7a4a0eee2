"""A private Redis with an append-only file: one per test run, a fresh database per test."""

import itertools
import shutil
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
import redis.asyncio

from shared.backends.redis.connection.presence import RETURNS_WITHIN
from tests.support.server import ContainerServer, HostServer, Server, free_ports
from tests.support.wait_until import wait_until

IMAGE = "redis:7.4.6-alpine"
DATABASES = 512
# Fsync always: a killed server has what it answered for, which every second cannot promise.
SETTINGS = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--databases", str(DATABASES)]


@dataclass(frozen=True)
class Command:
    """One line of MONITOR. `by_script`: a script made the call, so it needed no round trip."""

    text: str
    client: str
    by_script: bool

    @property
    def name(self) -> str:
        return self.text.split(maxsplit=1)[0].upper()


class Redis:
    def __init__(self, server: Server, port: int) -> None:
        self._server = server
        self._databases = itertools.cycle(range(1, DATABASES))
        self.port = port

    def url(self, database: int = 0, port: int | None = None) -> str:
        """Returns the URL of the server, or of a proxy's port in front of it."""
        return f"redis://127.0.0.1:{port or self.port}/{database}"

    async def start(self) -> None:
        self._server.start()
        await self._ready()

    async def stop(self) -> None:
        await self._server.stop()

    async def kill(self) -> None:
        await self._server.kill()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def close(self) -> None:
        await self._server.close()

    def is_running(self) -> bool:
        return self._server.is_running()

    def pause(self) -> None:
        self._server.pause()

    def resume(self) -> None:
        self._server.resume()

    @asynccontextmanager
    async def paused(self, seconds: float) -> AsyncGenerator[None]:
        """Pauses the server while inside, for at least `seconds`."""
        ends = time.monotonic() + seconds
        self.pause()
        try:
            yield
            await wait_until(lambda: time.monotonic() >= ends, "the pause to end", within=2 * seconds)
        finally:
            self.resume()

    async def ensure_running(self) -> None:
        """Starts or resumes the server if the last test left it stopped or paused."""
        if not self._server.is_running():
            return await self.start()
        self.resume()
        return await self._ready()

    async def settled(self) -> None:
        """Waits until the server has run long enough that all processes have reconnected."""
        await wait_until(lambda: self._uptime() >= RETURNS_WITHIN, "Redis to have run for a while")

    def _uptime(self) -> int:
        with self.client() as client:
            return client.info("server")["uptime_in_seconds"]

    def fresh_database(self) -> int:
        """Flushes all databases and returns a new number, so that processes of an earlier test write elsewhere."""
        with self.client() as client:
            client.flushall()
        return next(self._databases)

    def forget(self, database: int) -> None:
        """Deletes all keys of the database and all scripts, like the loss of its disk."""
        with self.client(database) as client:
            client.flushdb()
            client.script_flush()

    def forget_end(self, database: int, key: str, count: int) -> None:
        """Cuts the last `count` bytes off a string."""
        step = "return redis.call('SET', KEYS[1], redis.call('GETRANGE', KEYS[1], 0, -1 - ARGV[1]), 'KEEPTTL')"
        with self.client(database) as client:
            client.eval(step, 1, key, count)

    def subscribers(self) -> set[int]:
        """Returns the connections with subscriptions."""
        with self.client() as client:
            return {int(each["id"]) for each in client.client_list(_type="pubsub")}

    def kill_subscribers(self) -> int:
        """Closes the connections with subscriptions, and returns their number."""
        with self.client() as client:
            return client.client_kill_filter(_type="pubsub")

    @contextmanager
    def configured(self, name: str, value: str, default: str) -> Generator[None]:
        """Changes a setting while inside, and restores its default on exit."""
        with self.client() as client:
            client.config_set(name, value)
            try:
                yield
            finally:
                client.config_set(name, default)

    @contextmanager
    def client(self, database: int = 0) -> Generator[Any]:
        """Opens a synchronous client, to inspect the data."""
        client: Any = redis.Redis("127.0.0.1", self.port, database, decode_responses=True, socket_timeout=5)
        try:
            yield client
        finally:
            client.close()

    def keys_without_expiry(self, database: int) -> list[str]:
        with self.client(database) as client:
            return sorted(key for key in client.scan_iter(count=1000) if client.ttl(key) == -1)

    @asynccontextmanager
    async def monitor(self) -> AsyncGenerator[list[Command]]:
        """Records every command of every client while inside. The list is filled on exit."""
        seen: list[Command] = []
        marker = uuid.uuid4().hex
        patient = redis.asyncio.Redis(host="127.0.0.1", port=self.port, socket_timeout=None)
        with self.client() as pen:
            pen.ping()  # connected before the recording begins, so as not to be in it
            async with patient as client, client.monitor() as commands:
                yield seen
                pen.echo(marker)
                async for each in commands.listen():
                    if marker in each["command"]:
                        break
                    seen.append(_command(each))

    async def _ready(self) -> None:
        await wait_until(self._answers, "Redis to answer", within=120, seen=self._server.output)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:  # refused, or still loading its append-only file
            return False


def find_redis() -> str | None:
    return shutil.which("redis-server")


def redis_on_this_machine(launcher: str, directory: Path) -> Redis:
    (port,) = free_ports(1)
    listen = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)]
    return Redis(HostServer([launcher, *SETTINGS, *listen], directory), port)


def redis_in_docker() -> Redis:
    (port,) = free_ports(1)
    return Redis(ContainerServer(IMAGE, {port: 6379}, "redis-server", *SETTINGS), port)


def _command(line: Mapping[str, Any]) -> Command:
    client = f"{line['client_address']}:{line['client_port']}"
    return Command(line["command"], client, line["client_type"] == "lua")
