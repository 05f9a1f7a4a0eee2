"""The endpoints that an engine answers with one JSON object: completions, embeddings, rerank, score and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from producer.calls import answer_models
from producer.http.call_headers import json_body
from producer.http.context import context_of
from producer.http.edge.fast_path import Handler
from producer.http.job_answers import answer_with_job
from producer.http.openapi import FOR_COMPLETIONS, JOB_CREATED, answers, call_request, is_json
from producer.http.submissions import Checked, submission_of, unary_answer, with_headers
from shared.schema import CALL_REQUESTS, CallApi, check_call, parse_object

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
    body = await json_body(request)
    checked = await context.service.checks.run(body, lambda: check(request.headers, body, api))
    submission = submission_of(request, body, checked, api=api)
    if submission.background:
        return await answer_with_job(context, submission, checked.preferences)
    return unary_answer(context, submission)


def check(headers: Mapping[str, str], body: bytes, api: CallApi) -> Checked:
    """Parses and checks the body: all steps that take time in proportion to its size. Raises InvalidRequest."""
    value = parse_object(body)
    return with_headers(headers, body, value, check_call(value, api), streams=False, call=api)


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
