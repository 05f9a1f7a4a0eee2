"""The endpoints that an engine answers with one JSON object: completions, embeddings, rerank, score and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from producer.calls import answer_models
from producer.http.answers import UnaryAnswer
from producer.http.call_headers import Preferences, header_deadline, json_body, sdk_patience
from producer.http.context import REQUEST_ID, context_of, meter_of, principal_of
from producer.http.edge.fast_path import Handler
from producer.http.job_answers import answer_with_job
from producer.http.openapi import FOR_COMPLETIONS, JOB_CREATED, answers, call_request, is_json
from producer.jobs.idempotency import HEADER, SdkTry, idempotency_key, sdk_try
from producer.jobs.submission import Submission
from shared.job import IdempotencyKey
from shared.schema import CALL_REQUESTS, CallApi, CallRequest, check_call, parse_object

router = APIRouter(tags=["calls"])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`paths`: the first one is documented in full; servers and SDKs know the endpoint by the others, too."""

    api: CallApi
    paths: tuple[str, ...]
    summary: str
    answer: type[BaseModel]


ENDPOINTS = (
    Endpoint("completions", ("/v1/completions",), "Complete a text", answer_models.TextCompletion),
    Endpoint("embeddings", ("/v1/embeddings",), "Create embeddings", answer_models.Embeddings),
    Endpoint("rerank", ("/v1/rerank", "/v2/rerank", "/rerank"), "Order documents by a query", answer_models.Ranking),
    Endpoint("score", ("/v1/score", "/score"), "Score pairs of texts", answer_models.Scores),
    Endpoint("tokenize", ("/tokenize",), "Split a text into tokens", answer_models.Tokens),
    Endpoint("detokenize", ("/detokenize",), "Join tokens to a text", answer_models.DetokenizedText),
)


async def answer_call(request: Request, api: CallApi) -> Response:
    """Returns the engine's answer; 202 and a job with `background` or `Prefer: respond-async`."""
    context = context_of(request)
    submission, preferences = await read_submission(request, api)
    if submission.background:
        return await answer_with_job(context, submission, preferences)
    return UnaryAnswer(
        context.service,
        lambda: context.service.call(submission),
        context.settings.keepalive,
        padding=context.settings.unary_padding,
        key=submission.principal.key,
    )


async def read_submission(request: Request, api: CallApi) -> tuple[Submission, Preferences]:
    body = await json_body(request)
    checked = await context_of(request).service.checks.run(body, lambda: check(request.headers, body, api))
    again = checked.sent
    submission = Submission(
        principal=principal_of(request),
        body=body,
        request=checked.request,
        mode="unary",
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
        api=api,
    )
    return submission, checked.preferences


@dataclass(frozen=True, slots=True)
class Checked:
    """The checked request with what its headers ask for. `sent`: set if the client's SDK may repeat the call."""

    request: CallRequest
    preferences: Preferences
    background: bool
    key: IdempotencyKey | None
    sent: SdkTry | None


def check(headers: Mapping[str, str], body: bytes, api: CallApi) -> Checked:
    """Parses and checks the body: all steps that take time in proportion to its size. Raises InvalidRequest."""
    value = parse_object(body)
    request = check_call(value, api)
    preferences = Preferences.from_header(headers.get("prefer", ""))
    background = bool(request.background) or preferences.respond_async
    key = idempotency_key(headers.get(HEADER), value, api)
    sent = None if background or key else sdk_try(headers, body, api)
    return Checked(request, preferences=preferences, background=background, key=key, sent=sent)


def handler_of(api: CallApi) -> Handler:
    async def handle(request: Request) -> Response:
        return await answer_call(request, api)

    return handle


HANDLERS: Mapping[str, Handler] = {path: handler_of(each.api) for each in ENDPOINTS for path in each.paths}
"""The handlers, by path."""


def add_routes(add: Callable[..., None]) -> None:
    for each in ENDPOINTS:
        for number, path in enumerate(each.paths):
            add(
                path,
                HANDLERS[path],
                methods=["POST"],
                name=f"create_{each.api}" + (f"_{number + 1}" if number else ""),
                summary=each.summary,
                description=f"Answers at once, or with a job. The same as POST {each.paths[0]}." if number else None,
                responses=answers(is_json(each.answer, "The answer.") | JOB_CREATED, *FOR_COMPLETIONS),
                openapi_extra=call_request(CALL_REQUESTS[each.api].__name__),
            )


add_routes(router.add_api_route)
