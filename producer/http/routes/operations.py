"""/v1/queues and /v1/workers: show operators the state of the fleet."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from producer.auth.keyring import require_operator
from producer.fleet import QueueView
from producer.http import response_models
from producer.http.context import context_of, json_response, principal_of
from producer.http.openapi import answers, is_json
from shared.ports import WorkerInfo

router = APIRouter(prefix="/v1", tags=["operations"])


@router.get("/queues", summary="Queues", responses=answers(is_json(response_models.QueueList, "All queues."), 403))
async def list_queues(request: Request) -> Response:
    """Lists waiting and running jobs by model and tier. Needs an operator's key."""
    require_operator(principal_of(request))
    return json_response(listed([queue_object(view) for view in await context_of(request).fleet.queues()]))


@router.get("/workers", summary="Workers", responses=answers(is_json(response_models.WorkerList, "All workers."), 403))
async def list_workers(request: Request) -> Response:
    """Lists the connected workers. Needs an operator's key."""
    require_operator(principal_of(request))
    return json_response(listed([worker_object(worker) for worker in await context_of(request).fleet.workers()]))


def listed(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": objects}


def queue_object(view: QueueView) -> dict[str, Any]:
    return {
        "object": "queue",
        "model": view.queue.model,
        "tier": view.queue.tier,
        "waiting": view.waiting,
        "running": view.running,
        "waiting_tokens": view.tokens,
        "waiting_tenants": view.tenants,
        "oldest_wait_seconds": view.oldest_wait,
        "started_per_second": view.rate,
        "backlog_seconds": view.backlog_seconds,
    }


def worker_object(worker: WorkerInfo) -> dict[str, Any]:
    return {
        "object": "worker",
        "id": worker.id,
        "model": worker.model.id,
        "models": [model.id for model in worker.models],
        "engine": worker.model.engine,
        "slots": worker.concurrency,
        "running": worker.running,
        "ready": worker.ready,
        "version": worker.version,
        "started_at": int(worker.started_at),
        "engine_state": worker.engine_state and asdict(worker.engine_state),
    }
