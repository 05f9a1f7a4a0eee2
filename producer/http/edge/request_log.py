"""Logs one line for each finished request. The line has the route's template, never a path, query or header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from starlette.types import Message, Scope

from producer.metrics import REQUESTS

log = structlog.get_logger(__name__)

CLIENT_LEFT = 499
"""The status that is logged where the client disconnected before the answer, as nginx does."""

PROBES = frozenset({"/", "/healthz", "/readyz", "/metrics"})
"""Routes that machines ask every few seconds: logged with level debug."""

PAGES = ("/console", "/docs", "/openapi.json")

UNKNOWN_ROUTE = "unknown"


class Answered:
    """What an answer's head says. `status` stays CLIENT_LEFT if there is no answer."""

    __slots__ = ("job", "status")

    def __init__(self) -> None:
        self.status = CLIENT_LEFT
        self.job: str | None = None

    def read(self, message: Message) -> None:
        self.status = message["status"]
        for name, value in message.get("headers", ()):
            if name == b"x-job-id":
                self.job = value.decode("latin-1")


def route_of(scope: Scope, fast: Mapping[str, object]) -> str:
    """Returns the template of the request's route, of which there are few. `fast`: the paths of the fast path."""
    route = scope.get("route")
    if route is not None:
        return route.path
    path = scope["path"]
    return path if path in fast or path in PROBES else next(filter(path.startswith, PAGES), UNKNOWN_ROUTE)


def log_request(scope: Scope, answered: Answered, *, route: str, seconds: float) -> None:
    state: Mapping[str, Any] = scope.get("state", {})
    principal = state.get("principal")
    report = log.debug if route in PROBES or route.startswith(PAGES) else log.info
    REQUESTS.labels("http", route, str(answered.status)).inc()
    report(
        "request.finished",
        method=scope["method"],
        route=route,
        status=answered.status,
        tenant=principal and principal.tenant,
        job=answered.job or scope.get("path_params", {}).get("job_id"),
        seconds=round(seconds, 3),
    )
