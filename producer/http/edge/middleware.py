"""Pure ASGI middleware. Starlette's BaseHTTPMiddleware would hide a client's disconnect from unary calls."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from producer.admission.rate_limits import KeyLimits, Meter
from producer.auth.keyring import METRICS, METRICS_READER, Keyring, Principal
from producer.http.connection.transport import HOLD_ANSWER
from producer.http.context import REQUEST_ID
from producer.http.edge.request_log import Answered, log_request, route_of
from producer.http.errors import ERROR_SENT, error_response, unhandled_error_response
from shared.errors import AuthenticationFailed, IgniteError, RateLimited, RequestTooLarge, UnsupportedMediaType

log = structlog.get_logger(__name__)

FIT_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,200}")
ANSWERED = "ignite.answered"
"""Key of a request's scope: set once its answer has started."""

OPENAI_VERSION = (b"openai-version", b"2020-10-01")
"""The header of OpenAI's answers: the version of its REST API."""

DOCS_ASSETS = "/docs-assets"


class RequestContext:
    """Adds the request id and the processing time to every answer, and the id to every log line. Logs one line when the
    request is over. `fast`: the paths that have no route of FastAPI's.
    """

    def __init__(self, app: ASGIApp, fast: Mapping[str, object]) -> None:
        self._app = app
        self._fast = fast

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        since = time.perf_counter()
        request_id = request_id_of(scope)
        scope.setdefault("state", {})[REQUEST_ID] = request_id
        answered = Answered()
        started = False

        def send_marked(message: Message) -> Awaitable[None]:
            nonlocal started
            if not started:
                started = scope[ANSWERED] = True
                taken = b"%d" % int((time.perf_counter() - since) * 1000)
                marks = (b"x-request-id", request_id.encode()), (b"openai-processing-ms", taken), OPENAI_VERSION
                message["headers"] = [*message.get("headers", ()), *marks]
                answered.read(message)
            return send(message)

        with bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_marked)
            finally:
                route = route_of(scope, self._fast)
                log_request(scope, answered, route=route, seconds=time.perf_counter() - since)


def request_id_of(scope: Scope) -> str:
    """Returns the client's X-Request-ID if it may be echoed, else a new id."""
    return fit_request_id(Headers(scope=scope).get("x-request-id", ""))


def fit_request_id(given: str) -> str:
    return given if FIT_REQUEST_ID.fullmatch(given) else f"req_{os.urandom(16).hex()}"


class Cors(CORSMiddleware):
    """Starlette's CORS, skipped for requests without an Origin."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"]):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class UnhandledErrors:
    """Answers unhandled exceptions with OpenAI's error object. Runs inside CORS, so that browsers can read it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            log.debug("request.cut_off", path=scope["path"])
        except Exception as error:
            if scope.get(ERROR_SENT):
                return
            if scope["type"] != "http" or scope.get(ANSWERED):
                raise  # The answer has started: the server closes the connection.
            await unhandled_error_response(scope["path"], error)(scope, receive, send)


class Authentication:
    """Refuses calls without a valid key. Puts the principal, and a meter if its key has limits, into the state."""

    OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json", "/console"})

    def __init__(self, app: ASGIApp, keyring: Keyring, limits: KeyLimits) -> None:
        self._app = app
        self._keyring = keyring
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_open(scope["path"]):
            try:
                principal = await self._principal_of(scope)
            except IgniteError as error:
                await self._refuse(error, scope, receive, send)
                return
            meter = self._limits.meter(principal)
            scope.setdefault("state", {}).update(principal=principal, meter=meter)
            send = send if meter is None else with_rate_limits(send, meter)
        await self._app(scope, receive, send)

    async def _principal_of(self, scope: Scope) -> Principal:
        authorization = Headers(scope=scope).get("authorization")
        if scope["path"] == METRICS and self._keyring.reads_metrics(authorization):
            return METRICS_READER
        return await self._keyring.authenticate(authorization, address_of(scope))

    async def _refuse(self, error: IgniteError, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a failed authentication: late and on a connection that is closed, if the address fails too often."""
        answer = error_response(error)
        hold_answer: Callable[[], None] | None = scope.get("extensions", {}).get(HOLD_ANSWER)
        failed = isinstance(error, AuthenticationFailed | RateLimited)
        authorization = Headers(scope=scope).get("authorization")
        if hold_answer and failed and self._keyring.holds_back(authorization, address_of(scope)):
            answer.headers["connection"] = "close"
            hold_answer()
        await answer(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self.OPEN_PATHS or path.startswith((f"{DOCS_ASSETS}/", "/console/"))


def address_of(scope: Scope) -> str | None:
    return (scope.get("client") or (None,))[0]


def with_rate_limits(send: Send, meter: Meter) -> Send:
    """Adds the key's rate limit headers to the answer, if the call was counted."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            limits = [(name.encode(), value.encode()) for name, value in meter.headers().items()]
            message["headers"] = [*message.get("headers", ()), *limits]
        await send(message)

    return send_with_headers


class BodyLimit:
    """Refuses bodies above `limit` bytes with 413, by their Content-Length or as they arrive. `others`: paths with
    their own limits.
    """

    def __init__(self, app: ASGIApp, limit: int, others: Mapping[str, int]) -> None:
        self._app = app
        self._limit = limit
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._others.get(scope["path"], self._limit)
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            await error_response(refusal(limit))(scope, receive, send)
            return
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            await error_response(PACKED)(scope, receive, send)
            return
        await self._app(scope, self._counting(receive, limit), send)

    def _counting(self, receive: Receive, limit: int) -> Receive:
        taken = 0

        async def receive_counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise refusal(limit)
            return message

        return receive_counted


PACKED = UnsupportedMediaType(
    "Content-Encoding is not supported: send the request body without compression.", param="Content-Encoding"
)


def refusal(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than {limit:,} bytes.")
