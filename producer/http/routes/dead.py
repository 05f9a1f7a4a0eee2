"""/v1/dead: shows operators the dead jobs of all tenants and the queue messages that no worker could decode."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from producer.auth.keyring import require_operator
from producer.http import response_models, serializers
from producer.http.context import context_of, json_response, principal_of
from producer.http.job_answers import job_response
from producer.http.openapi import FOR_A_JOB, answers, is_json
from producer.http.parameters import Id, Limit
from shared.errors import NotFound
from shared.job import Job
from shared.ports import Fate, Undecodable

MOST_MESSAGES = 1000
"""Undecodable messages that one call reads at most."""


def operators_only(request: Request) -> None:
    require_operator(principal_of(request))


router = APIRouter(prefix="/v1/dead", tags=["operations"], dependencies=[Depends(operators_only)])


@router.get(
    "",
    summary="List the dead jobs of every tenant, newest first",
    responses=answers(is_json(response_models.DeadJobList, "A page of them."), 400, 403),
)
async def list_dead(
    request: Request, model: str | None = None, after: str | None = None, limit: Limit = 20
) -> Response:
    """Jobs that failed for too many attempts or lost workers. `after`: the last id of the page before."""
    store = context_of(request).backend.store
    jobs = await store.dead(model=model, after=after, limit=limit + 1)
    page = [serializers.job_object(job) | {"tenant": job.tenant} for job in jobs[:limit]]
    return json_response(serializers.page(page, has_more=len(jobs) > limit))


@router.post(
    "/{job_id}/retry",
    summary="Try a dead job of any tenant again",
    responses=answers(is_json(response_models.Job, "The job, queued again."), 403, *FOR_A_JOB, 409, 429),
)
async def retry_dead(request: Request, job_id: Id) -> Response:
    """Queues the job again with the same id and an empty log, as its owner could."""
    context = context_of(request)
    return await job_response(context, await context.service.retry(await job_of_any_tenant(request, job_id)))


@router.get(
    "/messages",
    summary="List the undecodable messages",
    responses=answers(is_json(response_models.UndecodableList, "The oldest of them."), 403),
)
async def list_messages(request: Request) -> Response:
    """Lists headers and sizes without the bodies, which are unreadable. The headers may name the tenant."""
    found = await undecodable(request, lambda _: "keep")
    return json_response({"object": "list", "data": [message_object(each) for each in found]})


@router.post(
    "/messages/{message_id}/replay",
    summary="Put a message back into the queue it came from",
    responses=answers(is_json(response_models.UndecodableMessage, "The message."), 403, 404),
)
async def replay_message(request: Request, message_id: Id) -> Response:
    """Queues the message again, for example for a worker of another version."""
    return await dispose(request, message_id, "replay")


@router.delete(
    "/messages/{message_id}",
    summary="Delete an undecodable message",
    responses=answers(is_json(response_models.UndecodableMessage, "The deleted message."), 403, 404),
)
async def forget_message(request: Request, message_id: Id) -> Response:
    """Deletes the message permanently."""
    return await dispose(request, message_id, "forget")


async def job_of_any_tenant(request: Request, job_id: str) -> Job:
    job = await context_of(request).backend.store.get(job_id)
    if job is None:
        raise NotFound(f"No job '{job_id}'.")
    return job


async def dispose(request: Request, message_id: str, fate: Fate) -> Response:
    """Applies `fate` to one message and returns it. Raises NotFound."""

    def decide(message: Undecodable) -> Fate:
        return fate if message.id == message_id else "keep"

    for message in await undecodable(request, decide):
        if message.id == message_id:
            return json_response(message_object(message))
    raise NotFound(f"No message '{message_id}'.")


async def undecodable(request: Request, decide: Callable[[Undecodable], Fate]) -> list[Undecodable]:
    """Reads the undecodable messages, oldest first, and applies what `decide` returns for each."""
    return list(await context_of(request).backend.queue.undecodable(decide, MOST_MESSAGES))


def message_object(message: Undecodable) -> dict[str, object]:
    return {
        "id": message.id,
        "object": "undecodable_message",
        "queue": message.queue,
        "set_aside_at": int(message.at),
        "reason": message.reason,
        "headers": dict(message.headers),
        "bytes": len(message.body),
    }
