"""Serves ModelService's two methods: submits each call as a job and answers it, as `completions` does over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import grpc
import orjson
import structlog
from google.protobuf.message import DecodeError
from structlog.contextvars import bind_contextvars, bound_contextvars

from producer.auth.keyring import Principal
from producer.http.context import ApiContext
from producer.http.edge.middleware import fit_request_id
from producer.jobs.idempotency import HEADER, idempotency_key
from producer.jobs.service import Submission
from producer.metrics import REFUSALS
from producer.rpc.answers import Answer, Context, StreamAnswer, UnaryAnswer
from producer.rpc.call_log import logged_call
from producer.rpc.errors import code_of, rich_status
from producer.rpc.messages import body_of
from producer.rpc.peers import address_of, browser_refusal
from producer.rpc.receiving import CallLimit, Receiving
from producer.rpc.resets import ResetGuard
from producer.rpc.wire_bounds import MessageBounds
from shared.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    IgniteError,
    InvalidRequest,
    RateLimited,
    RequestTooLarge,
    code_label,
)
from shared.job import IdempotencyKey, Mode
from shared.ports import FollowerClosed
from shared.proto.dodil.ignite.v1.model_service_pb2 import ChatCompletionRequest, ChatCompletionResponse
from shared.schema import MAX_DEADLINE, check_request
from shared.schema import ChatCompletionRequest as Request

log = structlog.get_logger(__name__)

Messages = AsyncIterator[bytes]
"""The call's single message. It is read after authentication, and decoded after its size was counted."""

BOUNDS = MessageBounds(ChatCompletionRequest.DESCRIPTOR)


HOLD = 1.0
"""Seconds for which the refusal of an address with too many failed authentications is held back."""

MOST_HELD = 1000
"""Refusals that are held back at a time; others are sent at once."""


class ModelService:
    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._open: set[Answer] = set()
        self._held_back = 0
        settings = context.settings
        self._calls = CallLimit(settings.grpc_calls)
        self._resets = ResetGuard()
        self._receiving = Receiving(
            memory=settings.grpc_receive_memory,
            largest=settings.body_limit,
            timeout=settings.grpc_receive_timeout,
        )

    async def chat_completion(self, messages: Messages, context: Context) -> ChatCompletionResponse | None:
        return await self._answer(UnaryAnswer, messages, context)

    async def stream_chat_completion(self, messages: Messages, context: Context) -> None:
        await self._answer(StreamAnswer, messages, context)

    async def drain(self, seconds: float) -> None:
        """Waits up to `seconds` for the open calls, then ends the rest; their jobs run on."""
        if self._open:
            await asyncio.wait([answer.task for answer in self._open], timeout=seconds)
        for answer in self._open:
            answer.cut_off()

    async def _answer(self, kind: type[Answer], messages: Messages, context: Context) -> ChatCompletionResponse | None:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        answer_metadata = {"x-request-id": fit_request_id(metadata.get("x-request-id", ""))}
        with (
            bound_contextvars(request_id=answer_metadata["x-request-id"]),
            ended_by_grpc(),
            logged_call(kind.mode, context, answer_metadata),
        ):
            try:
                return await self._answered(kind, messages, metadata, context, answer_metadata)
            except IgniteError as error:
                await refuse(context, error, answer_metadata)
            except grpc.aio.InternalError:
                raise
            except FollowerClosed:
                await context.abort(grpc.StatusCode.CANCELLED)
            except Exception as error:
                log.error("request.crashed", exc_info=error)
                await refuse(context, IgniteError("The server failed on this request."), answer_metadata)

    async def _answered(
        self,
        kind: type[Answer],
        messages: Messages,
        metadata: Mapping[str, str],
        context: Context,
        answer_metadata: dict[str, str],
    ) -> ChatCompletionResponse | None:
        with self._resets.noted(context.peer()):
            principal = await self._principal_of(metadata, context)
        bind_contextvars(tenant=principal.tenant)
        with self._calls.counted(principal.tenant), self._context.bodies.open(principal.tenant) as held:
            with self._resets.noted(context.peer()):
                data = await self._receiving.first(messages, principal.tenant)
            held.grow(len(data))
            submission = await self._submission(
                principal,
                data,
                metadata,
                mode=kind.mode,
                remaining=context.time_remaining(),
                request_id=answer_metadata["x-request-id"],
            )
            del data
            answer = kind(
                self._context.service,
                submission,
                context,
                answer_metadata=answer_metadata,
                keepalive=self._context.settings.keepalive,
            )
            self._open.add(answer)
            try:
                return await answer.end()
            finally:
                self._open.discard(answer)
                answer_metadata.update(answer.rate_limits())

    async def _principal_of(self, metadata: Mapping[str, str], context: Context) -> Principal:
        keyring = self._context.keyring
        authorization, address = metadata.get("authorization"), address_of(context.peer())
        try:
            principal = await keyring.authenticate(authorization, address)
        except (AuthenticationFailed, RateLimited):
            if keyring.holds_back(authorization, address) and self._held_back < MOST_HELD:
                await self._hold_back()
            raise
        if await keyring.is_keyless() and (refused := browser_refusal(metadata, self._context.settings)) is not None:
            raise refused
        return principal

    async def _hold_back(self) -> None:
        """Delays a refusal, as over HTTP: it costs the address its time and this process nothing."""
        self._held_back += 1
        try:
            await asyncio.sleep(HOLD)
        finally:
            self._held_back -= 1

    async def _submission(
        self,
        principal: Principal,
        data: bytes,
        metadata: Mapping[str, str],
        mode: Mode,
        remaining: float | None,
        request_id: str,
    ) -> Submission:
        limit = self._context.settings.body_limit
        named = metadata.get(HEADER.lower())
        body, request, key = await self._context.service.checks.run(
            data, lambda: read(data, limit, mode=mode, named=named), heavy=BOUNDS.is_heavy(data)
        )
        return Submission(
            principal=principal,
            body=body,
            request=with_deadline(request, remaining),
            mode=mode,
            detached=metadata.get("x-on-disconnect", "").lower() == "continue",
            idempotency_key=key,
            meter=self._context.limits.meter(principal),
            traceparent=metadata.get("traceparent"),
            request_id=request_id,
        )


@contextmanager
def ended_by_grpc() -> Generator[None]:
    """Ends the handler of a call that gRPC's core has ended: the client has reset it, or its message was too large. The
    core has told the client, and grpcio would log a traceback.
    """
    try:
        yield
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def read(data: bytes, limit: int, *, mode: Mode, named: str | None) -> tuple[bytes, Request, IdempotencyKey | None]:
    """Returns the equivalent JSON body, the checked request and its idempotency key, if it is `named`. Raises
    InvalidRequest, RequestTooLarge.
    """
    BOUNDS.refuse_excess(data)
    try:
        value = body_of(ChatCompletionRequest.FromString(data))
    except DecodeError as error:
        raise InvalidRequest(f"The message is not a ChatCompletionRequest: {error}.") from None
    body = orjson.dumps(value)
    if len(body) > limit:
        raise RequestTooLarge(f"The request body is larger than {limit:,} bytes.")
    request = check_request(value, stream=mode == "stream")
    if request.background:
        message = "Background jobs are not available over gRPC: use HTTP (POST /v1/chat/completions)."
        raise InvalidRequest(message, param="background")
    return body, request, idempotency_key(named, value, mode)


def with_deadline(request: Request, remaining: float | None) -> Request:
    """Limits the request's deadline to the call's, which is `remaining` seconds away. Raises DeadlineExceeded."""
    if remaining is None:
        return request
    if remaining <= 0:
        raise DeadlineExceeded("The call's deadline has passed.")
    return request.model_copy(update={"deadline_seconds": min(request.deadline_seconds or MAX_DEADLINE, remaining)})


async def refuse(context: Context, error: IgniteError, answer_metadata: Mapping[str, str]) -> NoReturn:
    if "x-job-id" not in answer_metadata:
        REFUSALS.labels(code_label(error.code)).inc()
    status = rich_status(error)
    details = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(code_of(error), status.message, (details, *answer_metadata.items()))
