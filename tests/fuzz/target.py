"""The process that is attacked, and what must hold of it after every example."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc.aio

from tests.support.http_bytes import Sent
from tests.support.resident import resident
from tests.support.run_process import RunningProcess, run_ignite

KEY = "key-of-alice-0123456789"
QUIET = 0.05
"""Seconds: a connection that says nothing for so long waits for more."""

HANG = 20.0
"""Seconds that no answer and no end of a connection takes, on the busiest machine."""

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
MOST_GROWTH = 96 * 2**20
"""Bytes of memory that the process may gain, whatever it was sent; most of it are its caches, and malloc's reserve."""


@dataclass
class Target:
    """`ignite up` with the simulated engine, on HTTP and gRPC."""

    process: RunningProcess
    url: str
    grpc_address: str
    http: aiohttp.ClientSession
    channel: grpc.aio.Channel
    at_first: int = field(init=False)
    _read: int = 0

    def __post_init__(self) -> None:
        self.at_first = resident(self.process.pid)

    async def send(self, sent: Sent, address: str | None = None) -> list[int]:
        """The statuses of the answers. The connection ends when we end our half of it, or before."""
        host, _, port = (address or self.url.removeprefix("http://")).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        received = bytearray()
        try:
            for piece in sent.pieces:
                writer.write(piece)
                await writer.drain()
            await until_quiet(reader, received)
            if writer.can_write_eof():
                writer.write_eof()
            received += await asyncio.wait_for(reader.read(), HANG)
        except (ConnectionError, OSError) as gone:
            assert not isinstance(gone, TimeoutError), "the connection hangs"
        finally:
            writer.transport.abort()
        return [int(status) for status in STATUS.findall(received)]

    async def assert_well(self) -> None:
        """It lives, answers, has logged no surprise and has not grown."""
        async with asyncio.timeout(HANG), self.http.get("/healthz") as answer:
            assert answer.status == 200, await answer.text()
        assert self.process.returncode is None, self.process.output
        said, self._read = self.process.output[self._read :], len(self.process.output)
        for sign in ("Traceback", '"level":"error"', '"level":"critical"', "Exception in"):
            assert sign not in said, said
        grown = resident(self.process.pid) - self.at_first
        assert grown < MOST_GROWTH, f"the process has grown by {grown:,} bytes"


async def until_quiet(reader: asyncio.StreamReader, received: bytearray) -> None:
    try:
        while data := await asyncio.wait_for(reader.read(65536), QUIET):
            received += data
    except TimeoutError:
        return


@asynccontextmanager
async def running_target(directory: Path) -> AsyncGenerator[Target]:
    options = ("--engine", "simulated", "--port", "0", "--simulated-tokens", "3", "--data-dir", str(directory))
    env = {"IGNITE_API_KEYS": f"alice={KEY}", "IGNITE_LOG_FORMAT": "json", "IGNITE_MAX_TRIES": "1"}
    async with run_ignite("up", *options, env=env) as process:
        ready = await process.wait_for(r"ignite is ready: (http://\S+)/v1 · gRPC (\S+)")
        keyed = {"authorization": f"Bearer {KEY}"}
        async with (
            aiohttp.ClientSession(ready[1], headers=keyed) as http,
            grpc.aio.insecure_channel(ready[2]) as channel,
        ):
            yield Target(process, ready[1], ready[2], http, channel)
