"""/v1/jobs: poll, result, events, cancel, list."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from producer import wire
from producer.dependencies import Doors, doors_of, json_response, tenant_of
from producer.job_events import EventsAnswer
from shared.errors import InvalidRequest
from shared.job import Job, JobStatus
from shared.ports import JobFilter

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

JobId = Annotated[str, Path(max_length=200)]
MAX_WAIT = 300.0
"""Seconds a poll may be held."""


async def job_response(doors: Doors, job: Job, status: int = 200) -> Response:
    """The job object with where it waits; polls learn from the headers when to come back and whether anything
    changed.
    """
    place = None if job.status is not JobStatus.QUEUED else await doors.service.place(job)
    body = wire.job_object(job, position=place and place.position, eta=place and place.eta)
    headers = {"etag": wire.etag(job), "x-job-id": job.id}
    if not job.status.terminal:
        headers["retry-after"] = str(wire.POLL_SECONDS)
    return json_response(body, status, headers)


@router.get("", summary="List jobs, newest first")
async def list_jobs(
    request: Request,
    status: JobStatus | None = None,
    model: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Filters: `status`, `model`, `metadata[key]=value`. `after`: the last id of the page before."""
    where = JobFilter(status, model, metadata_filter(request))
    jobs, more = await doors_of(request).service.list(tenant_of(request), where, after=after, limit=limit)
    return json_response(wire.page([wire.job_object(job) for job in jobs], has_more=more))


def metadata_filter(request: Request) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for name, value in request.query_params.items():
        if name.startswith("metadata"):
            key = name.removeprefix("metadata").removeprefix("[").removesuffix("]")
            if name != f"metadata[{key}]" or not key:
                raise InvalidRequest("expected metadata[key]=value.", param="metadata")
            wanted[key] = value
    return wanted


@router.get("/{job_id}", summary="A job's state")
async def get_job(
    request: Request, job_id: JobId, wait: Annotated[float, Query(ge=0, le=MAX_WAIT, allow_inf_nan=False)] = 0
) -> Response:
    """`wait`: seconds to hold the answer until the status changes."""
    doors = doors_of(request)
    job = await doors.service.get(tenant_of(request), job_id)
    job = await doors.service.wait_change(job, wait)
    response = await job_response(doors, job)
    if request.headers.get("if-none-match") == wire.etag(job):
        return Response(status_code=304, headers={"etag": wire.etag(job)})
    return response


@router.get("/{job_id}/result", summary="A job's completion")
async def get_result(request: Request, job_id: JobId) -> Response:
    """The `chat.completion`, verbatim; before the end 409."""
    service = doors_of(request).service
    job = await service.get(tenant_of(request), job_id)
    return Response(await service.result(job), media_type="application/json", headers={"x-job-id": job.id})


@router.get("/{job_id}/events", summary="Follow a job's stream, or resume it")
async def get_events(
    request: Request, job_id: JobId, starting_after: Annotated[int | None, Query(ge=-1, le=2**53)] = None
) -> Response:
    """SSE, each frame with its number as `id`. Resumes after `starting_after`, or after `Last-Event-ID`."""
    doors = doors_of(request)
    job = await doors.service.get(tenant_of(request), job_id)
    after = last_event(request) if starting_after is None else starting_after
    return EventsAnswer(doors.service, job, after, doors.settings.keepalive)


def last_event(request: Request) -> int:
    text = request.headers.get("last-event-id", "").strip()
    if not text:
        return -1
    if not text.isdecimal() or len(text) > 15:
        raise InvalidRequest("Invalid value for 'Last-Event-ID': expected a frame's number.", param="Last-Event-ID")
    return int(text)


@router.post("/{job_id}/cancel", summary="Cancel a job")
async def cancel_job(request: Request, job_id: JobId) -> Response:
    """Idempotent; the job as it is afterwards comes back."""
    doors = doors_of(request)
    job = await doors.service.get(tenant_of(request), job_id)
    return await job_response(doors, await doors.service.cancel_and_wait(job))
