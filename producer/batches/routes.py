"""The routes of /v1/batches, as in OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import Response

from producer.batches import schema
from producer.batches.document import Batch
from producer.batches.idempotency import RequestName, request_name
from producer.batches.input.sample import sampled_tokens
from producer.batches.requests import (
    BatchRequest,
    accepts_late,
    batch_object,
    new_batch,
    parse_batch_request,
    retrying,
)
from producer.http import serializers
from producer.http.context import context_of, json_response, principal_of, tenant_of
from producer.http.openapi import BATCH_REQUEST, answers, is_json
from producer.http.parameters import Id, Limit
from producer.webhooks.target import webhook_refusal
from shared.errors import Conflict, InvalidRequest
from shared.schema import parse_object

router = APIRouter(prefix="/v1/batches", tags=["batches"])

A_BATCH = is_json(schema.Batch, "The batch.")


async def begin(request: Request, batch: Batch, name: RequestName | None, *, accept_late: bool = False) -> Response:
    """Creates the batch and answers with it. Raises RateLimited if its completion window cannot be kept."""
    context = context_of(request)
    file = await context.files.get(batch.tenant, batch.input_file_id)
    if file.purpose != "batch":
        raise InvalidRequest(
            f"The file {file.id} has the purpose '{file.purpose}', not 'batch'.", param="input_file_id"
        )
    await context.files.usage.require_room(batch.tenant)
    if not batch.tokens:
        tokens = await sampled_tokens(context.files, batch.tenant, file.id, batch.endpoint)
        batch = batch.with_(tokens=tokens)
    async with context.batches.room_for(batch):
        batch = await context.forecasts.admitted(batch, accept_late=accept_late)
        standing = await context.named_batches.create(batch, name)
    context.runners.wake()
    return json_response(batch_object(standing))


def checked(headers: Mapping[str, str], body: bytes) -> tuple[BatchRequest, RequestName | None]:
    """Parses the body, once. Raises InvalidRequest."""
    value = parse_object(body)
    return parse_batch_request(value), request_name(headers, body, value, call="batch")


@router.post("", summary="Create a batch", responses=answers(A_BATCH, 400, 404), openapi_extra=BATCH_REQUEST)
async def create_batch(request: Request) -> Response:
    """Runs the requests in a file. All lines are validated first; `errors` lists the problems found."""
    body, principal, context = await request.body(), principal_of(request), context_of(request)
    settings = context.settings
    asked, name = await context.service.checks.run(body, lambda: checked(request.headers, body))
    if (standing := await context.named_batches.find(principal.tenant, name)) is not None:
        return json_response(batch_object(standing))
    if (refused := webhook_refusal(asked.webhook_url, background=True, settings=settings)) is not None:
        raise refused
    weight = settings.weights.get(principal.tenant, principal.weight)
    batch = new_batch(principal.tenant, asked, models=principal.limits.models, weight=weight)
    return await begin(request, batch.with_(made_with=principal.key), name, accept_late=asked.accept_late is True)


@router.get(
    "",
    summary="List batches, newest first",
    responses=answers(is_json(schema.BatchList, "A page of batches."), 400),
)
async def list_batches(request: Request, after: str | None = None, limit: Limit = 20) -> Response:
    """`after`: the last id of the previous page."""
    found, more = await context_of(request).batches.list(tenant_of(request), after=after, limit=limit)
    forecasts = context_of(request).forecasts
    return json_response(serializers.page([batch_object(forecasts.updated(batch)) for batch in found], has_more=more))


@router.get("/{batch_id}", summary="Get a batch", responses=answers(A_BATCH, 404))
async def get_batch(request: Request, batch_id: Id) -> Response:
    context = context_of(request)
    return json_response(
        batch_object(context.forecasts.updated(await context.batches.get(tenant_of(request), batch_id)))
    )


@router.post("/{batch_id}/cancel", summary="Cancel a batch", responses=answers(A_BATCH, 404, 409))
async def cancel_batch(request: Request, batch_id: Id) -> Response:
    """Finished requests stay in the output files; the others are listed in the error file as `batch_cancelled`."""
    return json_response(batch_object(await context_of(request).batches.cancel(tenant_of(request), batch_id)))


@router.post("/{batch_id}/retry", summary="Run a batch's failed requests again", responses=answers(A_BATCH, 404, 409))
async def retry_batch(request: Request, batch_id: Id) -> Response:
    """Creates a new batch of the requests in this one's error file, with the same completion window. The body may be
    `{"accept_late": true}`.
    """
    context, tenant, body = context_of(request), tenant_of(request), await request.body()
    accept_late = accepts_late(body)
    name = request_name(
        request.headers, body or b"{}", {"accept_late": True} if accept_late else {}, call=f"retry {batch_id}"
    )
    if (standing := await context.named_batches.find(tenant, name)) is not None:
        return json_response(batch_object(standing))
    batch = await context.batches.get(tenant, batch_id)
    if not batch.over or not batch.error.segments:
        why = "has no failed lines" if batch.over else f"is {batch.status}"
        raise Conflict(f"The batch {why}, so there is nothing to run again.", code="nothing_failed")
    again = retrying(batch).with_(made_with=principal_of(request).key)
    return await begin(request, again, name, accept_late=accept_late)
