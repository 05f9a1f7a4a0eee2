"""Logs one line for each finished call, as `producer/http/edge/request_log.py` does for requests."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
import structlog

from producer.metrics import REQUESTS
from shared.job import Mode

log = structlog.get_logger(__name__)

SERVICE = "/dodil.ignite.v1.ModelService"
ROUTES: Mapping[Mode, str] = {
    "unary": f"{SERVICE}/ChatCompletion",
    "stream": f"{SERVICE}/StreamChatCompletion",
}


@contextmanager
def logged_call(
    mode: Mode, context: grpc.aio.ServicerContext[Any, Any], metadata: Mapping[str, str]
) -> Generator[None]:
    """Logs the call at the end of the context. `metadata`: the answer's, with the job's id once it is known."""
    since = time.perf_counter()
    try:
        yield
    finally:
        status = status_of(context)
        REQUESTS.labels("grpc", ROUTES[mode], status).inc()
        log.info(
            "request.finished",
            method="gRPC",
            route=ROUTES[mode],
            status=status,
            job=metadata.get("x-job-id"),
            seconds=round(time.perf_counter() - since, 3),
        )


def status_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Returns the name of the call's status: OK where none was set, CANCELLED where the client has left."""
    if context.cancelled():
        return grpc.StatusCode.CANCELLED.name
    return getattr(context.code(), "name", grpc.StatusCode.OK.name)
