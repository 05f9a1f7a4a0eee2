"""/v1/responses: OpenAI's Responses API. A response is a chat job; see docs/adr/0028-a-response-is-a-chat-job.md."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from producer.http import serializers
from producer.http.call_headers import Preferences, json_body
from producer.http.context import ApiContext, context_of, json_response, principal_of, tenant_of
from producer.http.job_answers import queue_position, wait_for_end
from producer.http.openapi import (
    FOR_A_JOB,
    FOR_COMPLETIONS,
    MAX_FRAME,
    RESPONSE,
    RESPONSE_REQUEST,
    answers,
    is_json,
)
from producer.http.parameters import MAX_WAIT, Id, Limit, Order
from producer.http.response_answers import ResponseAnswer, ResponseStreamAnswer, ResumedAnswer, TokenCountAnswer
from producer.http.submissions import Checked, submission_of
from producer.jobs.idempotency import HEADER, idempotency_key, sdk_try
from producer.jobs.submission import Submission
from producer.responses import schema
from producer.responses.ids import response_id
from producer.responses.kept import Kept
from producer.responses.request import Include, ResponsesRequest, check_responses_request
from producer.responses.stored import StoredResponses
from producer.responses.translate import Earlier, Translated, translated
from shared.errors import BackendUnavailable, InvalidRequest
from shared.job import IdempotencyKey, Job, Mode
from shared.schema import is_heavy, parse_object

router = APIRouter(prefix="/v1/responses", tags=["responses"])

PATH = "/v1/responses"


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked call: what is asked, and how."""

    request: ResponsesRequest
    preferences: Preferences
    body: bytes
    key: IdempotencyKey | None = None

    @property
    def background(self) -> bool:
        return bool(self.request.background) or self.preferences.respond_async

    @property
    def mode(self) -> Mode:
        return "stream" if self.request.stream and not self.background else "unary"


@router.post(
    "",
    summary="Create a response",
    responses=answers(RESPONSE, *FOR_COMPLETIONS),
    openapi_extra=RESPONSE_REQUEST,
)
async def create_response(request: Request) -> Response:
    """Returns the response; its events as SSE when `stream` is true; at once, queued, when `background` is true."""
    context = context_of(request)
    asked = await read_asked(request)
    stored = stored_of(context)
    found = await translate(context, asked, await stored.earlier(tenant_of(request), asked.request))
    submission = submission_of_chat(request, asked, found)
    keepalive = context.settings.keepalive
    if asked.background:
        return await answer_in_background(context, asked, submission, found)
    if asked.mode == "stream":
        return ResponseStreamAnswer(context.service, submission, found, stored, keepalive)
    padding = context.settings.unary_padding
    return ResponseAnswer(context.service, submission, found, stored, keepalive, padding=padding)


HANDLERS = {PATH: create_response}
"""The handler that the fast path calls, by path."""


def stored_of(context: ApiContext) -> StoredResponses:
    return StoredResponses(context.service, context.settings.body_limit)


async def read_asked(request: Request) -> Asked:
    body = await json_body(request)
    return await context_of(request).service.checks.run(body, lambda: check(request.headers, body))


def check(headers: Mapping[str, str], body: bytes) -> Asked:
    """Parses and checks the body. A repetition is told by what the client has sent. Raises InvalidRequest."""
    value = parse_object(body)
    asked = Asked(check_responses_request(value), Preferences.from_header(headers.get("prefer", "")), body)
    if asked.background and not asked.request.stored:
        raise InvalidRequest(
            "'Prefer: respond-async' needs 'store': a response that is not stored cannot be fetched.", param="store"
        )
    return replace(asked, key=idempotency_key(headers.get(HEADER), value, f"responses {asked.mode}"))


async def translate(context: ApiContext, asked: Asked, earlier: Earlier) -> Translated:
    heavy = is_heavy(asked.body) or bool(earlier.messages) or bool(earlier.items)
    model = await context.catalog.get(asked.request.model) if asked.request.truncation == "auto" else None
    room = model and model.context_length
    return await context.service.checks.run(
        asked.body,
        lambda: translated(
            asked.request,
            earlier,
            background=asked.background,
            limit=context.settings.body_limit + len(asked.body),
            context=room,
        ),
        heavy=heavy,
    )


def submission_of_chat(request: Request, asked: Asked, found: Translated, call: str = "responses") -> Submission:
    """`call`: the kind of call. A retry only receives the answer of its own kind."""
    found_again = asked.background or asked.key is not None  # By its id or its key, not by its bytes.
    checked = Checked(
        found.request,
        preferences=asked.preferences,
        mode=asked.mode,
        background=asked.background,
        key=asked.key,
        sent=None if found_again else sdk_try(request.headers, asked.body, f"{call} {asked.mode}"),
    )
    return submission_of(request, found.body, checked, api="responses", prompt_bytes=found.prompt_bytes)


async def answer_in_background(
    context: ApiContext, asked: Asked, submission: Submission, found: Translated
) -> Response:
    """Answers with the queued response or its events, or with the response that ends within `Prefer: wait`."""
    try:
        job = await context.service.submit(submission)
    except InvalidRequest as error:
        raise found.renamed(error) from None
    key = submission.principal.key
    kept = await stored_of(context).kept(job) if submission.idempotency_key else found.kept
    if asked.request.stream:
        return ResumedAnswer(context.service, job, kept, context.settings.keepalive, readers=context.readers, key=key)
    if asked.preferences.wait:
        with suppress(BackendUnavailable):  # The job is already accepted.
            job = await wait_for_end(context, job, min(asked.preferences.wait, MAX_WAIT), key=key)
    status = 202 if asked.preferences.respond_async and not job.status.terminal else 200
    response = await answer_with(context, job, kept, status)
    response.headers["location"] = f"{PATH}/{response_id(job.id)}"
    if asked.preferences.applied:
        response.headers["preference-applied"] = asked.preferences.applied
    return response


async def answer_with(context: ApiContext, job: Job, kept: Kept, status: int = 200) -> Response:
    """Answers with the response as it stands."""
    headers = serializers.about_job(job, time.time())
    if not job.status.terminal:
        queue = await queue_position(context, job)
        headers["retry-after"] = str(serializers.poll_after(queue and queue.eta))
        if queue is not None:
            headers |= serializers.queue_headers(queue.position, queue.eta)
    return json_response(await stored_of(context).object(job, kept), status, headers)


# ── input tokens ──

NOT_COUNTED = ("background", "stream", "stream_options", "webhook_url", "tool_choice", "truncation", "include")


@router.post(
    "/input_tokens",
    summary="Count a request's input tokens",
    responses=answers(is_json(schema.ResponseInputTokens, "The engine's count."), *FOR_COMPLETIONS),
    openapi_extra=RESPONSE_REQUEST,
)
async def count_input_tokens(request: Request) -> Response:
    """Counted by the engine itself, which reads the input and generates one token: a job like any other."""
    context = context_of(request)
    body = await json_body(request)
    asked = Asked(
        await context.service.checks.run(body, lambda: check_responses_request(to_count(parse_object(body)))),
        Preferences(),
        body,
    )
    stored = stored_of(context)
    found = await translate(context, asked, await stored.earlier(tenant_of(request), asked.request))
    submission = submission_of_chat(request, asked, found, "responses input_tokens")
    return TokenCountAnswer(
        context.service,
        submission,
        found,
        stored,
        context.settings.keepalive,
        padding=context.settings.unary_padding,
    )


def to_count(value: dict[str, Any]) -> dict[str, Any]:
    """Returns a request that has the same input and asks for one token."""
    kept = {name: each for name, each in value.items() if name not in NOT_COUNTED}
    return {**kept, "store": False, "max_output_tokens": 1}


# ── stored responses ──


@router.get(
    "/{response_id}",
    summary="A response, or its events",
    responses=answers(RESPONSE, *FOR_A_JOB),
)
async def get_response(
    request: Request,
    response_id: Id,
    stream: bool = False,
    starting_after: Annotated[int | None, Query(ge=-1, le=MAX_FRAME)] = None,
    include: Annotated[list[Include] | None, Query(max_length=32)] = None,
    include_obfuscation: bool = False,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT, allow_inf_nan=False)] = 0,
) -> Response:
    """With `stream`, resumes the events after the number `starting_after`, on any replica. `wait`: seconds for which
    the answer waits for a change of the status.
    """
    context, stored = context_of(request), stored_of(context_of(request))
    job = await stored.job(tenant_of(request), response_id)
    kept = await stored.kept(job)
    key = principal_of(request).key
    if stream:
        after = -1 if starting_after is None else starting_after
        return ResumedAnswer(
            context.service, job, kept, context.settings.keepalive, readers=context.readers, after=after, key=key
        )
    if starting_after is not None:
        raise InvalidRequest("'starting_after' is only allowed when 'stream' is true.", param="starting_after")
    job = await context.service.wait_change(job, wait, key=key)
    return await answer_with(context, job, kept)


@router.delete(
    "/{response_id}",
    summary="Delete a response",
    responses=answers(is_json(schema.ResponseDeleted, "The response is deleted."), *FOR_A_JOB),
)
async def delete_response(request: Request, response_id: Id) -> Response:
    """Deletes the response with its job. One that has not ended is cancelled first. Later responses keep what they have
    of it.
    """
    context = context_of(request)
    await context.service.delete(await stored_of(context).job(tenant_of(request), response_id))
    return json_response(serializers.deleted(response_id, "response"))


@router.post(
    "/{response_id}/cancel",
    summary="Cancel a background response",
    responses=answers(is_json(schema.Response, "The response after the call."), *FOR_A_JOB),
)
async def cancel_response(request: Request, response_id: Id) -> Response:
    """Cancels the response and returns it. Has no effect on one that has ended."""
    context, stored = context_of(request), stored_of(context_of(request))
    job = await stored.job(tenant_of(request), response_id)
    kept = await stored.kept(job)
    if not kept.background:
        raise InvalidRequest("Only a response with 'background' can be cancelled.", param="response_id")
    if not job.status.terminal:
        job = await context.service.cancel_and_wait(job)
    return await answer_with(context, job, kept)


@router.get(
    "/{response_id}/input_items",
    summary="List a response's input items",
    responses=answers(is_json(schema.ResponseItemList, "A page of them."), *FOR_A_JOB),
)
async def list_input_items(
    request: Request,
    response_id: Id,
    after: str | None = None,
    limit: Limit = 20,
    order: Order = "desc",
    include: Annotated[list[Include] | None, Query(max_length=32)] = None,
) -> Response:
    """Lists the request's own input, last item first unless `order` is `asc`; not that of earlier responses."""
    stored = stored_of(context_of(request))
    job = await stored.job(tenant_of(request), response_id)
    items = (await stored.kept(job)).input_items(job.id)
    return json_response(serializers.page_of(items if order == "asc" else items[::-1], after=after, limit=limit))
