"""HTTP to an OpenAI-compatible server: the only file that touches aiohttp. Foreign errors end here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
import orjson

from shared.errors import EngineError, EngineRefused, IgniteError
from worker.engines.sse import SseDecoder

CONNECT_TIMEOUT = 5
PROBE_TIMEOUT = 5
# Servers close idle connections after 5 s (uvicorn, and so vLLM): let go before they do.
KEEP_ALIVE = 4
# An unstreamed answer shows no progress before its end.
UNARY_PATIENCE = 10
END_TIMEOUT = 1

DONE = b"[DONE]"
REFUSALS = frozenset({400, 404, 413, 422})
TOO_LONG = "context_length_exceeded"
KEY_REFUSED = "upstream_key_refused"
KEY_REFUSALS = frozenset({401, 403})


class UpstreamLost(EngineError):
    """The server cannot be reached, hung up, or went silent."""


class UpstreamFailed(EngineError):
    """The server answers that it failed; `said` is its error object."""

    def __init__(self, message: str, said: Mapping[str, Any], *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.said = said


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


class Upstream:
    """Calls to one server over kept-alive connections. Make it inside the event loop that uses it."""

    def __init__(self, address: Address, stall_timeout: float) -> None:
        self._address = address
        self._stall_timeout = stall_timeout
        self._calls: set[asyncio.Timeout] = set()
        self._streams: set[aiohttp.StreamReader] = set()
        self._session = aiohttp.ClientSession(
            connector=_connector(address.socket),
            headers={"Authorization": f"Bearer {address.api_key}"} if address.api_key else None,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=stall_timeout),
        )

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Each event's JSON, until `[DONE]` or the end of the answer."""
        with self._translated():
            async with self._abortable():
                response = await self._send("POST", self._url("/chat/completions"), **_json(body))
            async with response, aclosing(self._datas(response)) as datas:
                async for data in datas:
                    if data == DONE:
                        await _reach_end(response)
                        return
                    yield orjson.loads(data)

    async def complete(self, body: Mapping[str, Any]) -> Any:
        patience = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT, sock_read=self._stall_timeout * UNARY_PATIENCE
        )
        return await self._ask("POST", self._url("/chat/completions"), patience, **_json(body))

    async def models(self) -> list[dict[str, Any]]:
        answer = await self._ask("GET", self._url("/models"), aiohttp.ClientTimeout(total=PROBE_TIMEOUT))
        return answer.get("data") or []

    async def count_tokens(self, model: str, text: str) -> int:
        """As vLLM and llama-server do it, outside OpenAI's API; one reads `prompt`, the other `content`."""
        url = self._address.base.removesuffix("/v1") + "/tokenize"
        body = {"model": model, "prompt": text, "content": text, "add_special_tokens": False}
        answer = await self._ask("POST", url, aiohttp.ClientTimeout(total=PROBE_TIMEOUT), **_json(body))
        return len(answer["tokens"])

    async def close(self) -> None:
        """Hangs up on every running request: their readers get UpstreamLost.

        aiohttp alone would leave a reader that is waiting for more waiting for ever.
        """
        for call in self._calls:
            call.reschedule(0)
        for stream in self._streams:
            stream.set_exception(aiohttp.ServerDisconnectedError("hung up"))
        await self._session.close()

    def _url(self, path: str) -> str:
        return self._address.base + path

    async def _ask(self, method: str, url: str, limits: aiohttp.ClientTimeout, **body: Any) -> Any:
        with self._translated():
            async with self._abortable(), await self._send(method, url, timeout=limits, **body) as response:
                return orjson.loads(await response.read())

    async def _send(self, method: str, url: str, **options: Any) -> aiohttp.ClientResponse:
        """A response that is well. Asks once more where the server has closed a kept-alive connection unread."""
        try:
            response = await self._session.request(method, url, **options)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            response = await self._session.request(method, url, **options)
        await self._check(response)
        return response

    async def _datas(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        decoder = SseDecoder()
        self._streams.add(response.content)
        try:
            async for received in response.content.iter_any():
                for data in decoder.feed(received):
                    yield data
        finally:
            self._streams.discard(response.content)
        for data in decoder.rest():
            yield data

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            async with response:
                raise self._error(response, _error_object(await response.read()))

    def _error(self, response: aiohttp.ClientResponse, error: Mapping[str, Any]) -> IgniteError:
        if response.status in KEY_REFUSALS:
            message = f"{self._address.url} refuses our API key (HTTP {response.status})."
            return EngineError(message, code=KEY_REFUSED)
        if response.status in REFUSALS:
            return refusal(error)
        message = error.get("message") or response.reason
        return UpstreamFailed(
            f"{self._address.url} answered {response.status}: {message}",
            error,
            retry_after=_seconds(response.headers.get("Retry-After")),
        )

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
        try:
            yield
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            raise UpstreamLost(f"Lost {self._address.url}: {error or type(error).__name__}.") from error
        except (aiohttp.ClientError, orjson.JSONDecodeError, RuntimeError) as error:
            raise EngineError(f"{self._address.url} does not answer as an OpenAI server: {error}.") from error


def refusal(error: Mapping[str, Any]) -> EngineRefused:
    """The upstream's error object as ours."""
    message = str(error.get("message") or error)
    code = _code(error, message)
    param = error.get("param") or ("messages" if code == TOO_LONG else None)
    return EngineRefused(message, code=code, param=param)


def in_band_error(error: Any) -> IgniteError:
    """An error inside a stream; `code` is then often the HTTP status."""
    found: dict[str, Any] = cast(dict[str, Any], error) if isinstance(error, dict) else {"message": str(error)}
    if found.get("code") in REFUSALS or found.get("type") == "invalid_request_error":
        return refusal(found)
    return EngineError(f"The engine failed: {found.get('message') or found}")


def _code(error: Mapping[str, Any], message: str) -> str | None:
    if error.get("type") == "exceed_context_size_error" or "maximum context length" in message:
        return TOO_LONG
    code = error.get("code")
    return code if isinstance(code, str) and not code.isdigit() else None


def _error_object(body: bytes) -> dict[str, Any]:
    """OpenAI's `{"error": {…}}`, the bare object of older servers, FastAPI's `detail`, or plain text."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": body[:500].decode(errors="replace").strip()}
    if not isinstance(found, dict):
        return {"message": str(found)}
    error: Any = cast(dict[str, Any], found).get("error", cast(Any, found))
    if not isinstance(error, dict):
        return {"message": str(error)}
    named = cast(dict[str, Any], error)
    return named if "message" in named else {"message": str(named.get("detail", named))}


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.isdigit() else None


def _connector(socket: str | None) -> aiohttp.BaseConnector:
    # No limit: the worker's slots are the limit, and nothing may wait here unseen.
    if socket:
        return aiohttp.UnixConnector(socket, limit=0, keepalive_timeout=KEEP_ALIVE)
    return aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)


def _json(body: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": orjson.dumps(body), "headers": {"Content-Type": "application/json"}}


async def _reach_end(response: aiohttp.ClientResponse) -> None:
    """A connection serves again once its answer's end was read; that follows `[DONE]` at once or never."""
    with suppress(TimeoutError):
        async with asyncio.timeout(END_TIMEOUT):
            await response.content.read()
