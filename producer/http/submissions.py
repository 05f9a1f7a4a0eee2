"""Makes submissions from HTTP calls: what the endpoints of jobs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response

from producer.http.answers import UnaryAnswer
from producer.http.call_headers import Preferences, header_deadline, sdk_patience
from producer.http.context import REQUEST_ID, ApiContext, meter_of, principal_of
from producer.jobs.idempotency import HEADER, SdkTry, idempotency_key, sdk_try
from producer.jobs.submission import Submission
from shared.job import Api, IdempotencyKey, Mode
from shared.schema import JobRequest


@dataclass(frozen=True, slots=True)
class Checked:
    """The checked request with what its headers ask for. `sent`: set if the client's SDK may repeat the call."""

    request: JobRequest
    preferences: Preferences
    mode: Mode
    background: bool
    key: IdempotencyKey | None
    sent: SdkTry | None


def with_headers(
    headers: Mapping[str, str], body: bytes, value: Any, request: JobRequest, *, streams: bool, call: str | None = None
) -> Checked:
    """`value`: the parsed body, `request`: the checked one. `call`: the kind of call, by default its mode; a repetition
    only receives the answer of its own kind. Raises InvalidRequest.
    """
    preferences = Preferences.from_header(headers.get("prefer", ""))
    background = bool(request.background) or preferences.respond_async
    mode: Mode = "stream" if streams and not background else "unary"
    key = idempotency_key(headers.get(HEADER), value, call or mode)
    sent = None if background or key else sdk_try(headers, body, call or mode)
    return Checked(request, preferences=preferences, mode=mode, background=background, key=key, sent=sent)


def submission_of(
    request: Request, body: bytes, checked: Checked, *, api: Api = "chat", prompt_bytes: int | None = None
) -> Submission:
    """`body`: the job's request. Raises InvalidRequest for a bad Cancel-After."""
    headers, sent = request.headers, checked.sent
    return Submission(
        principal=principal_of(request),
        body=body,
        request=checked.request,
        mode=checked.mode,
        detached=headers.get("x-on-disconnect", "").lower() == "continue",
        background=checked.background,
        deadline_seconds=header_deadline(headers),
        patience=None if checked.background or checked.key else sdk_patience(headers),
        idempotency_key=checked.key,
        meter=meter_of(request),
        sent=sent and sent.digest,
        sent_again=sent is not None and sent.again,
        traceparent=headers.get("traceparent"),
        request_id=request.scope["state"][REQUEST_ID],
        api=api,
        prompt_bytes=prompt_bytes,
    )


def unary_answer(context: ApiContext, submission: Submission) -> Response:
    return UnaryAnswer(
        context.service,
        lambda: context.service.call(submission),
        context.settings.keepalive,
        padding=context.settings.unary_padding,
        key=submission.principal.key,
    )
