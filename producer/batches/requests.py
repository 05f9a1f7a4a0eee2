"""Parses requests that create batches, and translates a batch into OpenAI's batch object. No I/O."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from producer.batches.document import Batch, Output
from producer.batches.repository import window_of
from producer.files.entry import new_file_id, new_id
from producer.files.expiry import checked_expiry
from producer.http.serializers import whole
from shared.errors import InvalidRequest
from shared.schema import parse_object
from shared.schema.request import Metadata

Endpoint = Literal["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/rerank"]
ENDPOINTS: tuple[str, ...] = get_args(Endpoint)
"""The endpoints whose requests a batch may have, the usual one first."""


class BatchRequest(BaseModel):
    """The body of POST /v1/batches. `completion_window`: `24h`, or another number of s, m, h or d up to 30 days."""

    model_config = ConfigDict(strict=True, frozen=True)

    input_file_id: str
    endpoint: Endpoint
    completion_window: str
    metadata: Metadata | None = None
    output_expires_after: dict[str, Any] | None = None
    webhook_url: str | None = Field(
        None, description="Receives an event when the batch ends, such as `batch.completed`."
    )
    accept_late: bool | None = Field(
        None, description="Accept the batch although its completion window cannot be kept, or breaks another one."
    )


Fields = TypeVar("Fields", bound=BaseModel)


def parse_batch_request(given: Mapping[str, Any]) -> BatchRequest:
    """Checks the parsed body of POST /v1/batches. Raises InvalidRequest, which names the field."""
    return parse_fields(BatchRequest, given)


def parse_fields(model: type[Fields], given: Mapping[str, Any]) -> Fields:
    """Raises InvalidRequest, which names the field."""
    for name in given.keys() - model.model_fields.keys():
        if given[name] is not None:
            param = name[:100]
            raise InvalidRequest(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        param = ".".join(str(step) for step in problem["loc"])[:200]
        if problem["type"] == "missing":
            raise InvalidRequest(f"Missing required parameter: '{param}'.", param=param) from None
        reason = problem["msg"][0].lower() + problem["msg"][1:]
        raise InvalidRequest(f"Invalid value for '{param}': {reason}.", param=param) from None


class RetryRequest(BaseModel):
    """The body of POST /v1/batches/{id}/retry, which may be empty."""

    model_config = ConfigDict(strict=True, frozen=True)

    accept_late: bool | None = None


def accepts_late(body: bytes) -> bool:
    """Returns the field of a retry's body. Raises InvalidRequest, which names it."""
    return parse_fields(RetryRequest, parse_object(body) if body.strip() else {}).accept_late is True


def new_batch(tenant: str, request: BatchRequest, *, models: tuple[str, ...] = (), weight: float = 1.0) -> Batch:
    """Raises InvalidRequest."""
    now, expiry = time.time(), request.output_expires_after
    return Batch(
        id=new_id("batch_", now),
        tenant=tenant,
        endpoint=request.endpoint,
        input_file_id=request.input_file_id,
        completion_window=request.completion_window,
        created_at=now,
        expires_at=now + window_of(request.completion_window),
        output=Output(file_id=new_file_id()),
        error=Output(file_id=new_file_id()),
        metadata=request.metadata,
        output_retention=None if expiry is None else expiry_of(expiry),
        models=models,
        weight=weight,
        webhook_url=request.webhook_url,
    )


def expiry_of(given: Mapping[str, Any]) -> float:
    return checked_expiry("output_expires_after", given)


def retrying(batch: Batch) -> Batch:
    """Returns a new batch that runs the failed lines of this one again, with the same completion window."""
    asked = BatchRequest(
        input_file_id=batch.input_file_id,
        endpoint=cast(Endpoint, batch.endpoint),
        completion_window=batch.completion_window,
        metadata=batch.metadata,
        webhook_url=batch.webhook_url,
        accept_late=None,
    )
    fresh = new_batch(batch.tenant, asked, models=batch.models, weight=batch.weight)
    failed = batch.failed / batch.total if batch.total else 1.0
    tokens = {model: round(count * failed) for model, count in batch.tokens.items()}
    return fresh.with_(retry_of=batch.id, output_retention=batch.output_retention, tokens=tokens)


def batch_object(batch: Batch) -> dict[str, Any]:
    """Returns OpenAI's `batch` object. File ids are null until the file has a line."""
    problems = [{"code": p.code, "line": p.line, "message": p.message, "param": p.param} for p in batch.problems]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": problems} if problems else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output.file_id if batch.output.segments else None,
        "error_file_id": batch.error.file_id if batch.error.segments else None,
        "created_at": int(batch.created_at),
        "in_progress_at": whole(batch.in_progress_at),
        "expires_at": int(batch.expires_at),
        "finalizing_at": whole(batch.finalizing_at),
        "completed_at": whole(batch.completed_at),
        "failed_at": whole(batch.failed_at),
        "expired_at": whole(batch.expired_at),
        "cancelling_at": whole(batch.cancelling_at),
        "cancelled_at": whole(batch.cancelled_at),
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": usage_object(batch),
        "metadata": batch.metadata,
        "retry_of": batch.retry_of,
        "expected_finish_at": whole(batch.expected_finish_at),
        "expected_finish_confidence": batch.expected_finish_confidence,
        "tier_in_use": batch.tier_in_use,
    }


def usage_object(batch: Batch) -> dict[str, Any]:
    used = batch.usage
    return {
        "input_tokens": used.input,
        "input_tokens_details": {"cached_tokens": used.cached},
        "output_tokens": used.output,
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.input + used.output,
    }
