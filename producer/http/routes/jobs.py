"""/v1/jobs: lists, polls, follows, cancels, retries and deletes jobs."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from producer.http import response_models, serializers
from producer.http.context import context_of, json_response, principal_of, tenant_of
from producer.http.job_answers import job_page, job_response
from producer.http.job_events import EventsAnswer
from producer.http.openapi import (
    FOR_A_JOB,
    LAST_EVENT_ID,
    MAX_FRAME,
    METADATA_FILTER,
    UNCHANGED,
    answers,
    is_json,
    is_stream,
)
from producer.http.parameters import MAX_WAIT, Id, Limit, metadata_filter
from shared.errors import InvalidRequest
from shared.job import JobStatus
from shared.ports import JobFilter

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get(
    "",
    summary="List jobs, newest first",
    responses=answers(is_json(response_models.JobList, "A page of jobs."), 400),
    openapi_extra=METADATA_FILTER,
)
async def list_jobs(
    request: Request,
    status: JobStatus | None = None,
    model: str | None = None,
    code: str | None = None,
    after: str | None = None,
    limit: Limit = 20,
) -> Response:
    """Filters: `status`, `model`, `code` (of the error), `metadata[key]=value`. `after`: the last page's last id."""
    where = JobFilter(status=status, model=model, code=code, metadata=metadata_filter(request))
    return await job_page(request, where, shown=serializers.job_object, after=after, limit=limit)


@router.get(
    "/{job_id}",
    summary="A job's state",
    responses=answers(is_json(response_models.Job, "The job.") | UNCHANGED, *FOR_A_JOB),
)
async def get_job(
    request: Request, job_id: Id, wait: Annotated[float, Query(ge=0, le=MAX_WAIT, allow_inf_nan=False)] = 0
) -> Response:
    """`wait`: seconds for which the answer waits for a change of the status."""
    context = context_of(request)
    job = await context.service.get(tenant_of(request), job_id)
    job = await context.service.wait_change(job, wait, key=principal_of(request).key)
    return await job_response(context, job, known=request.headers.get("if-none-match", ""))


@router.delete(
    "/{job_id}",
    summary="Delete a job",
    responses=answers(is_json(response_models.Deleted, "The job is deleted."), *FOR_A_JOB),
)
async def delete_job(request: Request, job_id: Id) -> Response:
    """Deletes the job's record, stream and result permanently. An unfinished job is cancelled first."""
    service = context_of(request).service
    await service.delete(await service.get(tenant_of(request), job_id))
    return json_response(serializers.deleted(job_id, "chat.completion.job.deleted"))


@router.get(
    "/{job_id}/result",
    summary="A job's completion",
    responses=answers(is_json(response_models.ChatCompletion, "The completion."), *FOR_A_JOB, 409, 429, 500, 504),
)
async def get_result(request: Request, job_id: Id) -> Response:
    """Returns the `chat.completion` unchanged, or 409 while the job is unfinished."""
    service = context_of(request).service
    job = await service.get(tenant_of(request), job_id)
    return Response(
        await service.result(job), media_type="application/json", headers=serializers.about_job(job, time.time())
    )


@router.get(
    "/{job_id}/events",
    summary="Follow a job's stream, or resume it",
    responses=answers(is_stream("The frames of the stream, each with its number as `id`."), *FOR_A_JOB, 429),
    openapi_extra=LAST_EVENT_ID,
)
async def get_events(
    request: Request, job_id: Id, starting_after: Annotated[int | None, Query(ge=-1, le=MAX_FRAME)] = None
) -> Response:
    """Returns SSE, each frame with its number as `id`. Resumes after `starting_after`, or after `Last-Event-ID`."""
    context = context_of(request)
    job = await context.service.get(tenant_of(request), job_id)
    after = last_event(request) if starting_after is None else starting_after
    job = replace(job, result=None)  # It would stay in memory for as long as the client reads the stream.
    return EventsAnswer(
        context.service,
        job,
        after,
        keepalive=context.settings.keepalive,
        readers=context.readers,
        key=principal_of(request).key,
    )


def last_event(request: Request) -> int:
    text = request.headers.get("last-event-id", "").strip()
    if not text:
        return -1
    if not re.fullmatch("[0-9]{1,16}", text) or int(text) > MAX_FRAME:
        raise InvalidRequest("Invalid value for 'Last-Event-ID': expected a frame number.", param="Last-Event-ID")
    return int(text)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    responses=answers(is_json(response_models.Job, "The job after the call."), *FOR_A_JOB),
)
async def cancel_job(request: Request, job_id: Id) -> Response:
    """Cancels the job and returns its new state. Has no effect on a job that has ended."""
    context = context_of(request)
    job = await context.service.get(tenant_of(request), job_id)
    return await job_response(context, await context.service.cancel_and_wait(job))


@router.post(
    "/{job_id}/retry",
    summary="Try a failed job again",
    responses=answers(is_json(response_models.Job, "The job, queued again."), *FOR_A_JOB, 409, 429),
)
async def retry_job(request: Request, job_id: Id) -> Response:
    """Queues the job again with the same id, an empty log and its full deadline. Leaves an unfinished job unchanged."""
    context = context_of(request)
    job = await context.service.get(tenant_of(request), job_id)
    return await job_response(context, await context.service.retry(job))
