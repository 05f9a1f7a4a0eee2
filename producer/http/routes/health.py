"""Liveness, readiness, metrics; and the owner of the producer's background tasks, who notices when one dies."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

import structlog
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse, Response

from producer.auth.keyring import METRICS, require_operator
from producer.fleet import Fleet
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
)
from shared.errors import BackendUnavailable, IgniteError

log = structlog.get_logger(__name__)


class Health:
    """Runs background tasks; one that ends by itself makes this replica not ready, loudly."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.dead_tasks: dict[str, str] = {}
        self._ill: frozenset[str] = frozenset()

    def run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        log.critical(
            "background.died", task=task.get_name(), exc_info=task.exception(), next="this replica is not ready"
        )
        self.dead_tasks[task.get_name()] = "it has died: restart this process"

    def log_changes(self, parts: Mapping[str, IgniteError | None]) -> None:
        """What is wrong with the parts is for the log; who asks for readiness is told that something is."""
        ill = frozenset(name for name, problem in parts.items() if problem is not None)
        for name in sorted(ill - self._ill):
            log.warning("readiness.lost", part=name, error=str(parts[name]), next="asking again when probed")
        for name in sorted(self._ill - ill):
            log.info("readiness.back", part=name)
        self._ill = ill

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def health_router() -> APIRouter:
    from producer.http.context import context_of, json_response, principal_of

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
        """For operators' keys, and the setting `metrics_key`: they tell of every tenant's load."""
        require_operator(principal_of(request))
        TASKS.set(len(asyncio.all_tasks()))
        with suppress(BackendUnavailable):  # What this process counts itself is wanted most when the rest is away.
            await measure(context_of(request).fleet)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


async def measure(fleet: Fleet) -> None:
    """Gauges that are looked up when somebody looks: nothing polls."""
    ready = [worker for worker in await fleet.workers() if worker.ready]
    workers = Counter(worker.model.id for worker in ready)
    for view in await fleet.queues():
        model, tier = view.queue.model, view.queue.tier
        WORKERS.labels(model).set(workers[model])
        WORKER_SLOTS.labels(model).set(sum(worker.concurrency for worker in ready if worker.model.id == model))
        QUEUE_DEPTH.labels(model, tier).set(view.waiting)
        QUEUE_RUNNING.labels(model, tier).set(view.running)
        QUEUE_TOKENS.labels(model, tier).set(view.tokens)
        QUEUE_OLDEST.labels(model, tier).set(view.oldest_wait)
        unknown = math.inf if view.rate == 0.0 else math.nan
        QUEUE_BACKLOG.labels(model, tier).set(unknown if view.backlog_seconds is None else view.backlog_seconds)
