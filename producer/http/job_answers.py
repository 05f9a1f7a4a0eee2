"""Answers with one job, or with a page of jobs; submits background calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from fastapi import Request
from starlette.responses import Response

from producer.http import serializers
from producer.http.call_headers import Preferences
from producer.http.context import ApiContext, context_of, json_response, tenant_of
from producer.http.parameters import MAX_WAIT
from producer.jobs.jobs import QueuePosition
from producer.jobs.submission import Submission
from shared.errors import BackendUnavailable
from shared.job import Job, JobStatus
from shared.ports import JobFilter


async def job_response(context: ApiContext, job: Job, status: int = 200, *, known: str = "") -> Response:
    """Returns the job object with its queue position, ETag and Retry-After, or 304. `known`: the client's
    If-None-Match.
    """
    queue = await queue_position(context, job)
    tag = serializers.etag(job, queue and queue.position, queue and queue.workers)
    headers = {"etag": tag, **serializers.about_job(job, time.time())}
    if queue is not None:
        headers |= serializers.queue_headers(queue.position, queue.eta)
    if not job.status.terminal:
        headers["retry-after"] = str(serializers.poll_after(queue and queue.eta))
    if tag in (entry.strip().removeprefix("W/") for entry in known.split(",")):
        return Response(status_code=304, headers=headers)
    body = serializers.job_object(
        job, position=queue and queue.position, eta=queue and queue.eta, workers=queue and queue.workers
    )
    return json_response(body, status, headers)


async def answer_with_job(context: ApiContext, submission: Submission, preferences: Preferences) -> Response:
    """Answers 202 with the job, or with its answer if the job ends within the client's `Prefer: wait`."""
    job = await context.service.submit(submission)
    if preferences.wait:
        with suppress(BackendUnavailable):  # The job is already accepted.
            job = await wait_for_end(context, job, min(preferences.wait, MAX_WAIT), key=submission.principal.key)
        if job.status.terminal:
            about = serializers.about_job(job, time.time())
            return Response(await context.service.result(job), media_type="application/json", headers=about)
    response = await job_response(context, job, status=202)
    response.headers["location"] = f"/v1/jobs/{job.id}"
    if preferences.applied:
        response.headers["preference-applied"] = preferences.applied
    return response


async def queue_position(context: ApiContext, job: Job) -> QueuePosition | None:
    """Returns a queued job's position, or None if it is not queued or the store does not answer: an accepted job is
    never answered with 503.
    """
    if job.status is not JobStatus.QUEUED:
        return None
    try:
        return await context.service.queue_position(job)
    except BackendUnavailable:
        return None


async def job_page(
    request: Request,
    where: JobFilter,
    *,
    shown: Callable[[Job], Mapping[str, Any]],
    after: str | None,
    limit: int,
    oldest_first: bool = False,
) -> Response:
    """Returns a page of the tenant's jobs, each as `shown` has it."""
    jobs, more = await context_of(request).service.list(
        tenant_of(request), where, after=after, limit=limit, oldest_first=oldest_first
    )
    return json_response(serializers.page([shown(job) for job in jobs], has_more=more))


async def wait_for_end(context: ApiContext, job: Job, seconds: float, *, key: str | None) -> Job:
    """Waits for the job's end, at most `seconds`: the status changes at most twice on the way."""
    until = time.monotonic() + seconds
    while not job.status.terminal and (left := until - time.monotonic()) > 0:
        job = await context.service.wait_change(job, left, key=key)
    return job
