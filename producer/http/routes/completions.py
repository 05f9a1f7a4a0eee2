"""POST /v1/chat/completions: answers with a completion, a stream, or a job."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import Response

from producer.http.answers import StreamAnswer
from producer.http.call_headers import json_body
from producer.http.context import context_of
from producer.http.edge.fast_path import Handler
from producer.http.job_answers import answer_with_job
from producer.http.openapi import (
    COMPLETION,
    COMPLETION_REQUEST,
    COMPLETION_STREAM,
    FOR_COMPLETIONS,
    JOB_CREATED,
    answers,
)
from producer.http.submissions import Checked, submission_of, unary_answer, with_headers
from shared.schema import check_request, parse_object

router = APIRouter(tags=["chat"])

PATH, STREAM_PATH = "/v1/chat/completions", "/v1/chat/completions/stream"


@router.post(
    STREAM_PATH,
    name="stream_completion",
    summary="Stream a chat completion",
    description="Returns SSE and ignores the request's `stream`.",
    responses=answers(COMPLETION_STREAM | JOB_CREATED, *FOR_COMPLETIONS),
    openapi_extra=COMPLETION_REQUEST,
)
@router.post(
    PATH,
    summary="Create a chat completion",
    responses=answers(COMPLETION | JOB_CREATED, *FOR_COMPLETIONS),
    openapi_extra=COMPLETION_REQUEST,
)
async def create_completion(request: Request) -> Response:
    """Returns a completion; SSE when `stream` is true; 202 and a job with `background` or `Prefer: respond-async`."""
    context = context_of(request)
    stream = True if request.scope["path"] == STREAM_PATH else None
    body = await json_body(request)
    checked = await context.service.checks.run(body, lambda: check(request.headers, body, stream))
    submission = submission_of(request, body, checked)
    if submission.background:
        return await answer_with_job(context, submission, checked.preferences)
    if submission.mode == "stream":
        return StreamAnswer(
            context.service,
            lambda: context.service.call(submission),
            context.settings.keepalive,
            patience=submission.patience,
            key=submission.principal.key,
        )
    return unary_answer(context, submission)


HANDLERS: Mapping[str, Handler] = {PATH: create_completion, STREAM_PATH: create_completion}
"""The handler that the fast path calls, by path."""


def check(headers: Mapping[str, str], body: bytes, stream: bool | None) -> Checked:
    """Parses and checks the body: all steps that take time in proportion to its size. `stream` is what the path says,
    where it says anything. Raises InvalidRequest.
    """
    value = parse_object(body)
    request = check_request(value, stream=stream)
    streams = bool(request.stream) if stream is None else stream
    return with_headers(headers, body, value, request, streams=streams)
