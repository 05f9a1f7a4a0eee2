"""Maps errors to HTTP answers, here only. Every failure is answered with OpenAI's error object."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from producer.http.paths import likely_path
from producer.metrics import REFUSALS
from shared import errors
from shared.errors import AttemptsExhausted, IgniteError, RecordedError, code_label

log = structlog.get_logger(__name__)

STATUS_OF: Mapping[type[IgniteError], int] = {
    errors.AuthenticationFailed: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.Gone: 410,
    errors.Conflict: 409,
    errors.IdempotencyKeyReused: 422,
    errors.RateLimited: 429,
    errors.Unavailable: 503,
    errors.StorageFull: 507,
    errors.StoreFull: 507,
    errors.DeadlineExceeded: 504,
    errors.JobCancelled: 409,
    errors.RequestTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.RangeNotSatisfiable: 416,
    errors.InvalidRequest: 400,
}

STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "permission_error": 403,
    "rate_limit_error": 429,
    "timeout_error": 504,
}
"""For errors read back from a job, whose class is no longer known."""

STATUS_OF_CODE: Mapping[str, int] = {"cancelled": 409, "not_found": 404, "model_not_found": 404}

CODES: Mapping[int, str] = {
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
}

ERROR_SENT = "ignite.error_sent"
"""Key of a request's scope: set once the answer to an unhandled error has been sent."""

METHODS = ("DELETE", "GET", "POST")
"""The methods of all routes."""

RETRY_AFTER_RANGE = (1, 120)
"""Seconds. Above 120 openai-python does not retry at all."""


def status_of(error: IgniteError) -> int:
    if isinstance(error, RecordedError):
        by_type = STATUS_OF_TYPE.get(error.recorded_type, 500)
        return STATUS_OF_CODE.get(error.code, by_type)
    return next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), 500)


def headers_of(error: IgniteError, status: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 409 or error.code == AttemptsExhausted.default_code or isinstance(error, errors.NeverAllowed):
        # SDKs retry 409, 429 and 500 automatically. Here a retry cannot help: the job's state stays, the key's limit
        # is below the request, or the job has failed its last attempt.
        headers["x-should-retry"] = "false"
    if status == 413:
        headers["connection"] = "close"  # The rest of the body is not read.
    if status in (429, 503, 507) or error.retry_after is not None:
        headers["retry-after"] = str(retry_after(error))
    return headers


def retry_after(error: IgniteError) -> int:
    least, most = RETRY_AFTER_RANGE
    return max(least, min(most, round(error.retry_after or least)))


def error_body(error: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"error": error})


def error_response(error: IgniteError, about: Mapping[str, str] | None = None) -> Response:
    """Returns OpenAI's error object as an answer. `about`: headers on the job that the error belongs to."""
    status = status_of(error)
    if about is None:
        REFUSALS.labels(code_label(error.code)).inc()
    headers = headers_of(error, status) | dict(about or {})
    return Response(error_body(error.to_dict()), status, headers, "application/json")


class HttpError(IgniteError):
    """An error that the framework raises, such as an unknown path or method."""

    type = "invalid_request_error"


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ClientDisconnect, handle_cut_off)
    app.add_exception_handler(IgniteError, handle_ignite_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    app.add_exception_handler(RequestValidationError, handle_validation_error)
    app.add_exception_handler(Exception, handle_unhandled_error)


async def handle_cut_off(request: Request, error: Exception) -> Response:
    """Answers a client that disconnected before its body was complete; the answer is not sent anywhere."""
    return Response(status_code=499)


async def handle_ignite_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, IgniteError)
    return error_response(error)


async def handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status, path = error.status_code, request.scope["path"]
    message = {
        404: f"Unknown request URL: {request.method} {path}.{suggestion(request)}",
        405: f"{request.method} is not allowed on {path}.",
    }.get(status, error.detail or HTTPStatus(status).phrase)
    body = HttpError(message, code=CODES.get(status, "http_error")).to_dict()
    headers = {"allow": allowed(request)} if status == 405 else dict(error.headers or {})
    return Response(error_body(body), status, headers, "application/json")


def allowed(request: Request) -> str:
    """Returns the methods of all the path's routes; the framework gives those of the first only."""
    found = methods_of(request, request.scope["path"])
    return ", ".join(sorted({*found, "HEAD"} if "GET" in found else found))


def methods_of(request: Request, path: str) -> list[str]:
    scopes = [{**request.scope, "path": path, "raw_path": path.encode(), "method": method} for method in METHODS]
    return [str(scope["method"]) for scope in scopes if any(matches(route, scope) for route in request.app.routes)]


def suggestion(request: Request) -> str:
    path = likely_path(request.scope["path"], lambda path: bool(methods_of(request, path)))
    return f" Call {path} instead." if path else ""


def matches(route: BaseRoute, scope: Scope) -> bool:
    return route.matches(scope)[0] is Match.FULL


async def handle_validation_error(request: Request, error: Exception) -> Response:
    """Answers 400 for a bad query parameter or header, with its name."""
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    param = str(problem["loc"][-1])
    reason = problem["msg"][0].lower() + problem["msg"][1:]
    return error_response(errors.InvalidRequest(f"Invalid value for '{param}': {reason}.", param=param))


async def handle_unhandled_error(request: Request, error: Exception) -> Response:
    """Answers an error that no code handles. Starlette raises it again afterwards; the mark in the scope lets
    `UnhandledErrors` drop it, so that the client keeps its connection.
    """
    request.scope[ERROR_SENT] = True
    return unhandled_error_response(request.scope["path"], error)


def unhandled_error_response(path: str, error: Exception) -> Response:
    log.error("request.crashed", path=path, exc_info=error)
    return error_response(IgniteError("The server failed on this request."))
