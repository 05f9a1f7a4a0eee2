"""The real API on a free port, with a worker and an observable engine, and helpers to call it."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from ignite.api_process import ApiServer, serving
from ignite.worker_process import working
from producer.http.context import ApiContext
from producer.jobs.service import JobService
from shared.backends.embedded.backend import open_embedded
from shared.errors import EngineError, EngineRefused
from shared.job import Api as ApiName
from shared.ports import Backend
from shared.settings import Settings
from tests.support.wait_until import wait_until
from worker.engines.base import Answer, Chunk, Completion, Request
from worker.engines.simulated import SimulatedEngine

COMPLETIONS = "/v1/chat/completions"
MODEL = "simulated"
FIRST_WORD = " t007"


class WatchedEngine(SimulatedEngine):
    """The simulated engine; records its requests. Generates nothing while `gate` is clear; refuses prompts with
    `refuse`, and fails after the first token of prompts with `break`.
    """

    def __init__(self) -> None:
        super().__init__(model_id=MODEL, tokens=3)
        self.asked: list[Request] = []
        self.working = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def generate(self, request: Request, prefix: str = "", progress: bytes = b"") -> AsyncGenerator[Chunk]:
        with _Counted(self):
            await self._begin(request)
            async with aclosing(super().generate(request, prefix)) as chunks:
                async for chunk in chunks:
                    yield chunk
                    if "break" in prompt_of(request) and chunk["choices"][0]["delta"].get("content"):
                        raise EngineError("The engine broke.")

    async def complete(self, request: Request) -> Completion:
        with _Counted(self):
            await self._begin(request)
            return await super().complete(request)

    async def call(self, api: ApiName, request: Request) -> Answer:
        with _Counted(self):
            self.asked.append(request)
            await self.gate.wait()
            if "refuse" in str(request):
                raise EngineRefused("The text is too long.", code="context_length_exceeded", param="input")
            if "break" in str(request):
                raise EngineError("The engine broke.")
            return await super().call(api, request)

    async def _begin(self, request: Request) -> None:
        self.asked.append(request)
        await self.gate.wait()
        if "refuse" in prompt_of(request):
            raise EngineRefused("The prompt is too long.", code="context_length_exceeded", param="messages")


class _Counted:
    def __init__(self, engine: WatchedEngine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        self._engine.working += 1

    def __exit__(self, *_: object) -> None:
        self._engine.working -= 1


def prompt_of(request: Request) -> str:
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else ""


def ask(prompt: str = "seed=7", **fields: Any) -> dict[str, Any]:
    """Returns a request; by default its answer is ` t007 t008 t009`."""
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **fields}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """Returns OpenAI's error object; fails the test for anything else."""
        assert self.headers["content-type"] == "application/json"
        assert set(self.json) == {"error"}
        assert set(self.json["error"]) == {"message", "type", "param", "code"}
        assert self.json["error"]["message"]
        return self.json["error"]

    @property
    def frames(self) -> list[Any]:
        """Returns the JSON of every `data:` line but the last, which must be [DONE]."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]", lines
        return [json.loads(line) for line in lines[:-1]]

    @property
    def text(self) -> str:
        """Returns the text of the stream's first choice."""
        choices = [choice for frame in self.frames for choice in frame.get("choices", ()) if choice["index"] == 0]
        return "".join(choice["delta"].get("content", "") for choice in choices)


@dataclass
class Api:
    backend: Backend
    settings: Settings
    server: ApiServer
    http: aiohttp.ClientSession
    engine: WatchedEngine = field(default_factory=WatchedEngine)

    @property
    def url(self) -> str:
        return f"{self.server.address}/v1"

    @property
    def context(self) -> ApiContext:
        return self.server.config.app.state.context

    @property
    def grpc_address(self) -> str:
        assert self.server.grpc
        return self.server.grpc.address

    @property
    def service(self) -> JobService:
        return self.context.service

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        async with self.http.request(method, path, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.call("GET", path, headers=headers)

    async def post(self, body: object, path: str = COMPLETIONS, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call("POST", path, json=body, headers=named)

    async def submit(self, body: dict[str, Any], **headers: str) -> str:
        """Submits a job, and returns its id."""
        answer = await self.post(body | {"background": True}, **headers)
        assert answer.status == 202, answer.body
        return answer.json["id"]

    async def job(self, job_id: str, wait: float = 0) -> Any:
        return (await self.get(f"/v1/jobs/{job_id}?wait={wait}")).json

    async def jobs(self, query: str = "") -> list[Any]:
        return (await self.get(f"/v1/jobs?{query}")).json["data"]

    async def queued(self) -> list[Any]:
        return await self.jobs("status=queued")

    async def ended(self, job_id: str) -> Any:
        """Waits for the job's end, and returns the job."""
        return await wait_until(lambda: self._over(job_id), f"the end of {job_id}")

    async def _over(self, job_id: str) -> Any:
        job = await self.job(job_id)
        assert job["status"] not in ("queued", "in_progress"), job
        return job

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        await self.engine.start()
        async with working(self.backend, self.engine, self.settings):
            yield

    @asynccontextmanager
    async def connected(self, request: bytes, limit: int = 2**16) -> AsyncIterator[asyncio.StreamReader]:
        """A client that sends the bytes of `request`, reads only on request, and disconnects at the end."""
        host, port = self.server.servers[0].sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port, limit=limit)
        try:
            writer.write(request)
            await writer.drain()
            yield reader
        finally:
            writer.transport.abort()

    async def raw(self, request: bytes) -> bytes:
        """Sends the bytes of `request`, and returns the head of the answer."""
        async with self.connected(request) as reader:
            return await reader.readuntil(b"\r\n\r\n")


def raw_post(body: dict[str, Any], *headers: str, path: str = COMPLETIONS) -> bytes:
    data = json.dumps(body).encode()
    lines = (f"POST {path} HTTP/1.1", "Host: ignite", f"Content-Length: {len(data)}", *headers)
    return "\r\n".join((*lines, "", "")).encode("latin-1") + data


@asynccontextmanager
async def running_api(backend: Backend, settings: Settings, *, worker: bool = True) -> AsyncIterator[Api]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(backend, settings))
        http = await stack.enter_async_context(aiohttp.ClientSession(server.address))
        api = Api(backend, settings, server, http)
        if worker:
            await stack.enter_async_context(api.worker())
        yield api


def settings_for_tests(**changes: Any) -> Settings:
    """Without keys unless `api_keys` are given."""
    defaults = {"port": 0, "grpc": False, "grpc_port": 0, "drain": 1, "max_tries": 1}
    keyless = {"no_auth": True, "no_auth_anywhere": True, "no_auth_hosts": "ignite,x"}
    return Settings(**defaults | ({} if "api_keys" in changes else keyless) | changes)


@asynccontextmanager
async def embedded_api(*, worker: bool = True, **changes: Any) -> AsyncIterator[Api]:
    """An API on an in-memory backend. Without a worker the model is configured, so that calls wait."""
    settings = settings_for_tests(**{"models": MODEL} | changes)
    async with (
        open_embedded(None, queue_limit=settings.queue_limit, tenant_limit=settings.tenant_store_limit) as backend,
        running_api(backend, settings, worker=worker) as api,
    ):
        yield api
