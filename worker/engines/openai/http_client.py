"""Sends HTTP requests to an OpenAI-compatible server, and translates aiohttp's errors. Only this file uses aiohttp."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import orjson
import structlog

from shared.errors import EngineError
from worker.engines.openai import failures
from worker.engines.openai.body import AnswerBody

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT = 5
PROBE_TIMEOUT = 5
# Below the 5 s after which servers close idle connections (uvicorn, and so vLLM).
KEEP_ALIVE = 4
LONGEST_HEADER = 64 * 1024
"""Most bytes of one header: some gateways' headers exceed aiohttp's default of 8 KB."""
MOST_OF_ERROR = 256 * 1024
"""Bytes that are read at most of an error or of a list of models."""
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C's; it came from a client, and is not checked before."""
MOST_OF_METRICS = 2 * 1024 * 1024
# How many times the stall timeout an unstreamed answer may take: it shows no progress before its end.
UNARY_FACTOR = 10
Patience = Callable[[], float | None]
"""Seconds to wait for the next bytes, or None for the server's stall timeout."""


class UpstreamLost(EngineError):
    """The server cannot be reached, closed the connection, or sent nothing for too long. `detail` is for the operator.

    `hung_up`: the server closed the connection, so it may be healthy.
    """

    def __init__(self, message: str, *, detail: str = "", hung_up: bool = False) -> None:
        super().__init__(message)
        self.detail = detail or message
        self.hung_up = hung_up


@dataclass(frozen=True, slots=True)
class Address:
    """`http://host:port/v1`, or `unix:/path/of/socket`."""

    url: str
    api_key: str | None = None

    @property
    def socket(self) -> str | None:
        return self.url.removeprefix("unix:") if self.url.startswith("unix:") else None

    @property
    def base(self) -> str:
        return "http://localhost/v1" if self.socket else self.url.rstrip("/")

    @property
    def shown(self) -> str:
        """The address without user and password, for the log."""
        if self.socket:
            return self.url
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass(frozen=True, slots=True)
class ModelList:
    """A server's answer to GET /models. Any HTTP status shows that the server is alive; 200 lists its models."""

    status: int
    models: list[dict[str, Any]]


class Upstream:
    """Sends requests to one server over kept-alive connections. Create it inside the event loop that uses it."""

    def __init__(self, address: Address, stall_timeout: float) -> None:
        self._address = address
        self._stall_timeout = stall_timeout
        self._calls: set[asyncio.Timeout] = set()
        self._streams: set[aiohttp.StreamReader] = set()
        self._session = aiohttp.ClientSession(
            connector=_connector(address.socket),
            headers={"Authorization": f"Bearer {address.api_key}"} if address.api_key else None,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=stall_timeout),
            trace_configs=[_noting_reuse()],
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
        )

    async def answer(
        self,
        body: Mapping[str, Any],
        patience: Patience,
        path: str = "/chat/completions",
        traceparent: str | None = None,
        *,
        beside_v1: bool = False,
    ) -> AsyncGenerator[list[bytes], None]:
        """Yields the data of events as they arrive. The body of an unstreamed answer is one event. A `traceparent` that
        is none is not sent on.

        `patience` is called before each read; None means the stall timeout. `beside_v1`: `path` is not under /v1.
        """
        silence = self._stall_timeout if body.get("stream") else self._stall_timeout * UNARY_FACTOR
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence)
        with self._translated():
            async with self._abortable():
                url = self._url(path, beside_v1=beside_v1)
                response = await self._send("POST", url, timeout=limits, **_json(body, traceparent))
            answer = AnswerBody()
            self._streams.add(response.content)
            try:
                async with response:
                    while block := await _read(response, patience()):
                        if events := answer.feed(block):
                            yield events
                    if events := answer.end():
                        yield events
            except aiohttp.ClientError:
                if events := answer.salvaged(_unread(response.content)):
                    yield events
                raise
            finally:
                self._streams.discard(response.content)

    async def models(self) -> ModelList:
        """Returns the server's models. Raises UpstreamLost if the server does not answer."""
        with self._translated():
            limits = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
            async with self._abortable():
                response = await self._request("GET", self._url("/models"), timeout=limits)
                async with response:
                    return ModelList(response.status, _listed(await _beginning(response)))

    async def metrics(self) -> str:
        """Returns what the server tells Prometheus. Raises EngineError."""
        url = self._address.base.removesuffix("/v1") + "/metrics"
        with self._translated():
            limits = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
            async with self._abortable(), await self._send("GET", url, timeout=limits) as response:
                return (await _beginning(response, MOST_OF_METRICS)).decode(errors="replace")

    async def count_tokens(self, model: str, text: str) -> int:
        return len(await self.tokenize(model, text))

    async def detokenize(self, model: str, ids: Sequence[int]) -> str:
        """Asks vLLM's /detokenize."""
        url = self._address.base.removesuffix("/v1") + "/detokenize"
        limits = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
        received = await self._ask("POST", url, limits, **_json({"model": model, "tokens": [*ids]}))
        try:
            return str(orjson.loads(received)["prompt"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise failures.malformed("/detokenize gives no text", received) from None

    async def tokenize(self, model: str, text: str) -> list[int]:
        """Returns token ids by /tokenize, which is not in OpenAI's API: vLLM reads `prompt`, llama-server `content`."""
        url = self._url("/tokenize", beside_v1=True)
        body = {"model": model, "prompt": text, "content": text, "add_special_tokens": False}
        received = await self._ask("POST", url, aiohttp.ClientTimeout(total=PROBE_TIMEOUT), **_json(body))
        try:
            return list(orjson.loads(received)["tokens"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise failures.malformed("/tokenize does not list tokens", received) from None

    async def close(self) -> None:
        """Closes the connections of all running requests; their readers get UpstreamLost. With aiohttp's own `close`
        they would wait for ever.
        """
        for call in self._calls:
            call.reschedule(0)
        for stream in self._streams:
            stream.set_exception(aiohttp.ServerDisconnectedError("the connection was closed"))
        await self._session.close()

    def _url(self, path: str, *, beside_v1: bool = False) -> str:
        base = self._address.base
        return (base.removesuffix("/v1") if beside_v1 else base) + path

    async def _ask(self, method: str, url: str, limits: aiohttp.ClientTimeout, **body: Any) -> bytes:
        with self._translated():
            async with self._abortable(), await self._send(method, url, timeout=limits, **body) as response:
                return await response.read()

    async def _send(self, method: str, url: str, **options: Any) -> aiohttp.ClientResponse:
        """Returns a response with a 2xx status. Raises the error of any other status."""
        response = await self._request(method, url, **options)
        if not 200 <= response.status < 300:
            async with response:
                raise failures.of_status(response.status, response.headers, await _beginning(response))
        return response

    async def _request(self, method: str, url: str, **options: Any) -> aiohttp.ClientResponse:
        """Sends the request. Sends it again if a kept-alive connection was closed, because the server may not have read
        it. A failure on a new connection is not retried: the server may have read the request and would generate twice.
        """
        connection = _Connection()
        try:
            return await self._session.request(method, url, trace_request_ctx=connection, **options)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not connection.is_reused:
                raise
            return await self._session.request(method, url, trace_request_ctx=_Connection(), **options)

    @asynccontextmanager
    async def _abortable(self) -> AsyncGenerator[None]:
        async with asyncio.timeout(None) as call:
            self._calls.add(call)
            try:
                yield
            finally:
                self._calls.discard(call)

    @contextmanager
    def _translated(self) -> Generator[None]:
        """Translates aiohttp's errors. Clients get one sentence; addresses and details go to the log."""
        try:
            yield
        except aiohttp.ClientConnectorError as error:
            raise self._lost("The engine's server cannot be reached.", error) from error
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise self._lost("The engine's server stopped answering.", error) from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, RuntimeError) as error:
            raise self._lost("The connection to the engine's server was lost.", error, hung_up=True) from error
        except (aiohttp.ClientError, ValueError) as error:
            log.warning("engine.bad_response", server=self._address.shown, error=str(error) or type(error).__name__)
            raise EngineError("The engine's server sent an invalid HTTP answer.") from error

    def _lost(self, message: str, error: Exception, *, hung_up: bool = False) -> UpstreamLost:
        detail = f"Lost {self._address.shown}: {str(error) or type(error).__name__}"
        return UpstreamLost(message, detail=detail, hung_up=hung_up)


@dataclass(slots=True)
class _Connection:
    is_reused: bool = False


def _noting_reuse() -> aiohttp.TraceConfig:
    """Records whether a request uses a kept-alive connection; aiohttp reports that only through its tracing."""

    async def note(_: object, context: Any, __: object) -> None:
        context.trace_request_ctx.is_reused = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(note)
    return config


async def _read(response: aiohttp.ClientResponse, patience: float | None) -> bytes:
    """Returns the next bytes; empty at the end, or after `patience` seconds without any."""
    if patience is None:
        return await response.content.readany()
    try:
        async with asyncio.timeout(patience):
            return await response.content.readany()
    except TimeoutError:
        response.close()
        return b""


async def _beginning(response: aiohttp.ClientResponse, most: int = MOST_OF_ERROR) -> bytes:
    """Returns the first `most` bytes of the body, or somewhat more, or fewer if the connection breaks."""
    received = bytearray()
    with suppress(aiohttp.ClientPayloadError):
        while len(received) < most and (block := await response.content.readany()):
            received += block
    return bytes(received)


def _unread(content: aiohttp.StreamReader) -> bytes:
    """Returns the bytes that arrived before the connection broke; aiohttp has no public way to read them."""
    return b"".join(getattr(content, "_buffer", ()))


def _listed(body: bytes) -> list[dict[str, Any]]:
    """Returns the models that a server lists, under `data`, under `models` or as a bare list."""
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    if isinstance(found, dict):
        named = cast(dict[str, Any], found)
        found = named.get("data") or named.get("models")
    if not isinstance(found, list):
        return []
    return [cast(dict[str, Any], model) for model in cast(list[Any], found) if isinstance(model, dict)]


def _connector(socket: str | None) -> aiohttp.BaseConnector:
    # No limit: the worker's slots limit the requests.
    if socket:
        return aiohttp.UnixConnector(socket, limit=0, keepalive_timeout=KEEP_ALIVE)
    return aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)


def _json(body: Mapping[str, Any], traceparent: str | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if traceparent is not None and TRACEPARENT.fullmatch(traceparent):
        headers["traceparent"] = traceparent
    return {"data": orjson.dumps(body), "headers": headers}
