"""POST /v1/chat/completions: answers with a completion, a stream, or a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from producer.http.answers import StreamAnswer, UnaryAnswer
from producer.http.call_headers import Preferences, header_deadline, json_body, sdk_patience
from producer.http.context import REQUEST_ID, context_of, meter_of, principal_of
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
from producer.jobs.idempotency import HEADER, SdkTry, idempotency_key, sdk_try
from producer.jobs.submission import Submission
from shared.job import IdempotencyKey, Mode
from shared.schema import ChatCompletionRequest, check_request, parse_object

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
    submission, preferences = await read_submission(request)
    if submission.background:
        return await answer_with_job(context, submission, preferences)
    if submission.mode == "stream":
        return StreamAnswer(
            context.service,
            lambda: context.service.call(submission),
            context.settings.keepalive,
            patience=submission.patience,
            key=submission.principal.key,
        )
    return UnaryAnswer(
        context.service,
        lambda: context.service.call(submission),
        context.settings.keepalive,
        padding=context.settings.unary_padding,
        key=submission.principal.key,
    )


HANDLERS: Mapping[str, Handler] = {PATH: create_completion, STREAM_PATH: create_completion}
"""The handler that the fast path calls, by path."""


async def read_submission(request: Request) -> tuple[Submission, Preferences]:
    stream = True if request.scope["path"] == STREAM_PATH else None
    body = await json_body(request)
    checked = await context_of(request).service.checks.run(body, lambda: check(request.headers, body, stream))
    again = checked.sent
    submission = Submission(
        principal=principal_of(request),
        body=body,
        request=checked.request,
        mode=checked.mode,
        detached=request.headers.get("x-on-disconnect", "").lower() == "continue",
        background=checked.background,
        deadline_seconds=header_deadline(request.headers),
        patience=None if checked.background or checked.key else sdk_patience(request.headers),
        idempotency_key=checked.key,
        meter=meter_of(request),
        sent=again and again.digest,
        sent_again=again is not None and again.again,
        traceparent=request.headers.get("traceparent"),
        request_id=request.scope["state"][REQUEST_ID],
    )
    return submission, checked.preferences


@dataclass(frozen=True, slots=True)
class Checked:
    """The checked request with what its headers ask for. `sent`: set if the client's SDK may repeat the call."""

    request: ChatCompletionRequest
    preferences: Preferences
    mode: Mode
    background: bool
    key: IdempotencyKey | None
    sent: SdkTry | None


def check(headers: Mapping[str, str], body: bytes, stream: bool | None) -> Checked:
    """Parses and checks the body: all steps that take time in proportion to its size. `stream` is what the path says,
    where it says anything. Raises InvalidRequest.
    """
    value = parse_object(body)
    request = check_request(value, stream=stream)
    preferences = Preferences.from_header(headers.get("prefer", ""))
    streams = bool(request.stream) if stream is None else stream
    background = bool(request.background) or preferences.respond_async
    mode: Mode = "stream" if streams and not background else "unary"
    key = idempotency_key(headers.get(HEADER), value, mode)
    sent = None if background or key else sdk_try(headers, body, mode)
    return Checked(request, preferences=preferences, mode=mode, background=background, key=key, sent=sent)
