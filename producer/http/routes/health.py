"""Serves liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from contextlib import suppress

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse, Response

from producer.auth.keyring import METRICS, require_operator
from producer.fleet import Fleet
from producer.http.context import context_of, json_response, principal_of
from producer.http.openapi import ALIVE, READINESS
from producer.metrics import (
    QUEUE_BACKLOG,
    QUEUE_DEPTH,
    QUEUE_OLDEST,
    QUEUE_RUNNING,
    QUEUE_TOKENS,
    TASKS,
    WORKER_SLOTS,
    WORKERS,
    measure_engines,
)
from shared.errors import BackendUnavailable

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Liveness", responses=ALIVE)
async def healthz() -> Response:
    return json_response({"status": "ok"})


@router.get("/readyz", summary="Readiness: the broker and the store answer", responses=READINESS)
async def readyz(request: Request) -> Response:
    parts = await context_of(request).readiness()
    ready = not any(parts.values())
    shown = {name: problem or "ok" for name, problem in parts.items()}
    return json_response({"status": "ok" if ready else "unavailable", "checks": shown}, 200 if ready else 503)


@router.get(METRICS, summary="Prometheus metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Needs an operator's key or `metrics_key`: the metrics show every tenant's load."""
    require_operator(principal_of(request))
    TASKS.set(len(asyncio.all_tasks()))
    with suppress(BackendUnavailable):  # The process's own metrics are still exported.
        await measure(context_of(request).fleet)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def measure(fleet: Fleet) -> None:
    """Sets the fleet's gauges. Runs on each scrape; there is no polling task."""
    connected = await fleet.workers()
    measure_engines(connected)
    ready = [worker for worker in connected if worker.ready]
    workers = Counter(model.id for worker in ready for model in worker.models)
    for view in await fleet.queues():
        model, tier = view.queue.model, view.queue.tier
        WORKERS.labels(model).set(workers[model])
        WORKER_SLOTS.labels(model).set(sum(worker.concurrency for worker in ready if worker.serves(model)))
        QUEUE_DEPTH.labels(model, tier).set(view.waiting)
        QUEUE_RUNNING.labels(model, tier).set(view.running)
        QUEUE_TOKENS.labels(model, tier).set(view.tokens)
        QUEUE_OLDEST.labels(model, tier).set(view.oldest_wait)
        unknown = math.inf if view.rate == 0.0 else math.nan
        QUEUE_BACKLOG.labels(model, tier).set(unknown if view.backlog_seconds is None else view.backlog_seconds)
