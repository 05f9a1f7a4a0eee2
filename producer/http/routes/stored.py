"""/v1/chat/completions: lists, shows, changes and deletes stored completions (`store: true`), as OpenAI does."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from producer.http import response_models, serializers
from producer.http.context import context_of, json_response, tenant_of
from producer.http.job_answers import job_page
from producer.http.openapi import FOR_A_JOB, METADATA_FILTER, METADATA_UPDATE, answers, is_json
from producer.http.parameters import Id, Limit, Order, metadata_filter
from shared.job import JobStatus
from shared.ports import JobFilter
from shared.schema import parse_metadata

router = APIRouter(prefix="/v1/chat/completions", tags=["chat"])


@router.get(
    "",
    summary="List stored completions",
    responses=answers(is_json(response_models.StoredCompletionList, "A page of them."), 400),
    openapi_extra=METADATA_FILTER,
)
async def list_stored(
    request: Request, model: str | None = None, after: str | None = None, limit: Limit = 20, order: Order = "asc"
) -> Response:
    """Lists by age, oldest first unless `order` is `desc`. Filters: `model`, `metadata[key]=value`."""
    where = JobFilter(status=JobStatus.COMPLETED, model=model, metadata=metadata_filter(request), stored=True)
    shown = serializers.stored_completion
    return await job_page(request, where, shown=shown, after=after, limit=limit, oldest_first=order == "asc")


@router.get(
    "/{completion_id}",
    summary="A stored completion",
    responses=answers(is_json(response_models.StoredCompletion, "The completion."), *FOR_A_JOB),
)
async def get_stored(request: Request, completion_id: Id) -> Response:
    """Returns the completion with its metadata."""
    job = await context_of(request).service.get_stored(tenant_of(request), completion_id)
    return json_response(serializers.stored_completion(job))


@router.post(
    "/{completion_id}",
    summary="Change a stored completion's metadata",
    responses=answers(is_json(response_models.StoredCompletion, "The completion, changed."), *FOR_A_JOB),
    openapi_extra=METADATA_UPDATE,
)
async def update_stored(request: Request, completion_id: Id) -> Response:
    """Replaces all of the completion's metadata."""
    service = context_of(request).service
    body = await request.body()
    metadata = await service.checks.run(body, lambda: parse_metadata(body))
    job = await service.get_stored(tenant_of(request), completion_id)
    return json_response(serializers.stored_completion(await service.describe(job, metadata)))


@router.delete(
    "/{completion_id}",
    summary="Delete a stored completion",
    responses=answers(is_json(response_models.Deleted, "The completion is deleted."), *FOR_A_JOB),
)
async def delete_stored(request: Request, completion_id: Id) -> Response:
    """Deletes the completion and its job."""
    service = context_of(request).service
    await service.delete(await service.get_stored(tenant_of(request), completion_id))
    return json_response(serializers.deleted(completion_id, "chat.completion.deleted"))


@router.get(
    "/{completion_id}/messages",
    summary="List the messages of a stored completion's request",
    responses=answers(is_json(response_models.StoredMessageList, "A page of them."), *FOR_A_JOB),
)
async def list_stored_messages(
    request: Request, completion_id: Id, after: str | None = None, limit: Limit = 20, order: Order = "asc"
) -> Response:
    """Lists the messages in the request's order, or reversed if `order` is `desc`."""
    service = context_of(request).service
    job = await service.get_stored(tenant_of(request), completion_id)
    messages = serializers.stored_messages(job.id, orjson.loads(await service.request_of(job))["messages"])
    return json_response(serializers.page_of(messages if order == "asc" else messages[::-1], after=after, limit=limit))
