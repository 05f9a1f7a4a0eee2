"""An OpenAI-compatible server that writes scripted bytes to its sockets, and an API in front of it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from ignite.worker_process import working
from shared.backends.embedded.backend import open_embedded
from shared.ports import Backend
from shared.settings import Settings
from tests.producer.api import Api, running_api, settings_for_tests
from worker.engines.base import Engine
from worker.engines.open_engine import EngineSettings, open_engine

MODEL = "up"
LISTED = ("200 OK", b'{"data":[{"id":"up"}]}')


@dataclass(frozen=True)
class Call:
    """A received request, and the ways to answer it."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    writer: asyncio.StreamWriter
    time_asked: int
    """Returns how often this prompt was received, including this time."""

    @property
    def prompt(self) -> str:
        return self.body["messages"][-1]["content"]

    async def answer(self, body: bytes | dict[str, Any], status: str = "200 OK", **headers: str) -> None:
        """Sends one whole response, on a connection that stays open."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        await self.head(status, Content_Length=str(len(data)), **headers)
        await self.write(data)

    async def head(self, status: str = "200 OK", **headers: str) -> None:
        named = {"Content-Type": "text/plain", **{name.replace("_", "-"): value for name, value in headers.items()}}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        await self.write(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode())

    async def chunk(self, data: bytes) -> None:
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def abort(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Call], Awaitable[None]]


@dataclass
class RawUpstream:
    """`models`: status and body of the answer to GET /models."""

    script: Script
    models: tuple[str, bytes]
    calls: list[Call] = field(default_factory=list[Call])
    models_asked: int = 0
    _asked: dict[str, int] = field(default_factory=dict[str, int])
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    @property
    def url(self) -> str:
        assert self._server
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator["RawUpstream"]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)
        try:
            yield self
        finally:
            self._server.close()
            for writer in [*self._open]:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                await self._serve_one(reader, writer)
        self._open.discard(writer)
        writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        if line.startswith("GET"):
            self.models_asked += 1
            status, body = self.models
            await Call({}, headers, writer, time_asked=0).answer(body, status)
            return
        request = orjson.loads(data)
        prompt = str(request["messages"][-1]["content"])
        self._asked[prompt] = self._asked.get(prompt, 0) + 1
        call = Call(request, headers, writer, time_asked=self._asked[prompt])
        self.calls.append(call)
        await self.script(call)


class WorkerBehind:
    """A worker in front of an upstream server, which a test may drain and start again."""

    def __init__(self, upstream: RawUpstream, backend: Backend, engine: Engine, settings: Settings) -> None:
        self.upstream = upstream
        self._working = lambda: working(backend, engine, settings)
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        await self._stack.enter_async_context(self._working())

    async def drain(self) -> None:
        await self._stack.aclose()


@asynccontextmanager
async def upstream_api(
    script: Script, *, concurrency: int = 16, models: tuple[str, bytes] = LISTED, **changes: Any
) -> AsyncGenerator[tuple[Api, WorkerBehind]]:
    """Runs all of Ignite in memory, in front of a scripted upstream server."""
    settings = settings_for_tests(**{"max_tries": 3, "retry_backoff": 0.01} | changes)
    async with RawUpstream(script, models).listening() as upstream, open_embedded(None) as backend:
        engine = open_engine(EngineSettings("openai", url=upstream.url, model=MODEL, concurrency=concurrency))
        worker = WorkerBehind(upstream, backend, engine, settings)
        try:
            await engine.start()
            await worker.start()
            async with running_api(backend, settings, worker=False) as api:
                yield api, worker
        finally:
            await worker.drain()
            await engine.close()


def ask(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **fields}
