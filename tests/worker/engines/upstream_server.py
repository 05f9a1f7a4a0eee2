"""A small OpenAI-compatible server with scripted behaviour, also incorrect behaviour."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from shared.frames import DONE, frame

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunk(delta: dict[str, Any], finish_reason: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }


BEGIN = frame(chunk({"role": "assistant", "content": ""})) + frame(chunk({"content": "Hello"}))
FINISH = frame(chunk({}, "stop"))
USAGE_CHUNK = frame({**chunk({}), "choices": [], "usage": USAGE})
ANSWER = BEGIN + FINISH + USAGE_CHUNK + DONE


class UpstreamServer:
    """Answers every chat completion with `behaviour`; remembers bodies, keys and connections."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = streams(ANSWER)
        self.models: Any = {"object": "list", "data": [{"id": "m", "max_model_len": 512}]}
        self.model_asked = 0
        self.metrics: str | None = None
        self.metrics_asked = 0
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[Any] = set()
        self.hung_up = asyncio.Event()
        application = web.Application()
        application.router.add_get("/v1/models", self._list)
        application.router.add_post("/v1/chat/completions", self._complete)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_post("/v1/embeddings", self._complete)
        application.router.add_post("/tokenize", self._tokenize)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        self._site: web.BaseSite | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    async def start(self, socket: str | None = None) -> None:
        await self._runner.setup()
        await self.listen(socket)

    async def listen(self, socket: str | None = None) -> None:
        """Listens; after `stop_listening` again on the same port."""
        if socket:
            self._site = web.UnixSite(self._runner, socket)
        else:
            self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await self._site.start()
        if not socket:
            self._port = self._runner.addresses[0][1]

    async def stop_listening(self) -> None:
        assert self._site is not None
        await self._site.stop()

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        self.model_asked += 1
        if isinstance(self.models, web.Response):
            return web.Response(status=self.models.status, text=self.models.text)
        return web.json_response(self.models)

    async def _metrics(self, request: web.Request) -> web.Response:
        self.metrics_asked += 1
        return web.Response(status=404) if self.metrics is None else web.Response(text=self.metrics)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(orjson.loads(await request.read()))
        self.headers.append(dict(request.headers))
        self.connections.add(request.transport)
        try:
            return await self.behaviour(request)
        except asyncio.CancelledError:
            self.hung_up.set()
            raise

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        return web.json_response({"count": 2, "tokens": list(range(len(body["prompt"].split())))})


def streams(*parts: bytes, then: str = "end") -> Behaviour:
    """Sends the parts, then ends, resets the connection, or hangs."""

    async def behave(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if then == "cut":
            assert request.transport is not None
            request.transport.abort()
        if then == "hang":
            await asyncio.Event().wait()
        await response.write_eof()
        return response

    return behave


def bare(*parts: bytes, then: str = "abort") -> Behaviour:
    """Writes the parts to the socket unchanged, including the head, then aborts, closes, or hangs."""

    async def behave(request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        for part in parts:
            transport.write(part)
        if then == "hang":
            await asyncio.Event().wait()
        if then == "abort":  # with a reset, as a server that dies: the client's kernel may drop what it has not read
            await asyncio.sleep(0)
            transport.abort()
        transport.close()
        return web.Response()

    return behave


def answers(status: int, body: Any, **headers: str) -> Behaviour:
    async def behave(request: web.Request) -> web.StreamResponse:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return web.Response(status=status, body=data, headers={"Content-Type": "application/json", **headers})

    return behave
