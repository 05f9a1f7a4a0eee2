"""Builds the JSON objects and headers that clients read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import orjson

from producer.responses.ids import response_id
from shared.frames import DONE, frame
from shared.job import Job, JobStatus
from shared.ports import ModelInfo

POLLS = (1, 120)
"""Seconds. The shortest and the longest Retry-After of an unfinished job."""


def job_path(job_id: str) -> str:
    return f"/v1/jobs/{job_id}"


def about_job(job: Job, now: float) -> dict[str, str]:
    """Returns headers with the job's id and its queue wait: until it started or ended, or until now."""
    waited = (job.started_at or job.finished_at or now) - job.created_at
    return {"x-job-id": job.id, "x-queue-wait-ms": str(max(0, int(waited * 1000)))}


def queue_headers(position: int | None, eta: float | None) -> dict[str, str]:
    """Returns headers with a queued job's position (from 0 in, from 1 out) and ETA in seconds, as far as known."""
    known = {"x-queue-position": None if position is None else position + 1, "x-queue-eta-seconds": eta and round(eta)}
    return {name: str(value) for name, value in known.items() if value is not None}


def poll_after(eta: float | None) -> int:
    """Returns Retry-After in seconds: half of the ETA, so that clients are in time if the queue speeds up."""
    shortest, longest = POLLS
    return max(shortest, min(longest, int((eta or 0.0) / 2)))


def job_object(
    job: Job, *, position: int | None = None, eta: float | None = None, workers: int | None = None
) -> dict[str, Any]:
    """Returns the `chat.completion.job`. `position` counts from 0; `eta` in seconds."""
    path = job_path(job.id)
    return {
        "id": job.id,
        "object": "chat.completion.job",
        "endpoint": job.endpoint,
        "status": job.status,
        "model": job.model,
        "service_tier": job.tier,
        "created_at": int(job.created_at),
        "started_at": whole(job.started_at),
        "first_token_at": whole(job.first_token_at),
        "finished_at": whole(job.finished_at),
        "deadline_at": int(job.deadline_at),
        "expires_at": whole(job.expires_at),
        "queue": queue_object(job, position, eta, workers=workers),
        "progress": progress(job),
        "attempts": job.attempt,
        "result": orjson.Fragment(job.result) if job.result else None,
        "usage": job.usage,
        "error": job.error,
        "metadata": job.metadata,
        "urls": urls_of(job, path),
    }


def urls_of(job: Job, path: str) -> dict[str, str]:
    urls = {"self": path, "result": f"{path}/result", "events": f"{path}/events", "cancel": f"{path}/cancel"}
    return urls | ({"response": f"/v1/responses/{response_id(job.id)}"} if job.api == "responses" else {})


def queue_object(job: Job, position: int | None, eta: float | None, workers: int | None) -> dict[str, Any] | None:
    """Returns a queued job's `queue` object, whose positions count from 1. `workers`: those that serve its model."""
    if job.status is not JobStatus.QUEUED:
        return None
    from_one = None if position is None else position + 1
    return {"position": from_one, "eta_seconds": None if eta is None else round(eta), "workers": workers}


def progress(job: Job) -> dict[str, int]:
    """Returns the job's progress. Until the engine reports usage, each chunk but the first (the role) is one token."""
    tokens = (job.usage or {}).get("completion_tokens", max(0, job.chunks - 1))
    return {"chunks": job.chunks, "completion_tokens": tokens}


def whole(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


def etag(job: Job, position: int | None = None, workers: int | None = None) -> str:
    """Returns an ETag that changes whenever the job object does."""
    queue = "" if position is None else f"{position}-{workers}"
    return f'"{job.status}-{job.attempt}-{job.chunks}-{queue}"'


def page(data: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def page_of(data: Sequence[Mapping[str, Any]], *, after: str | None, limit: int) -> dict[str, Any]:
    """Returns the items of a complete list that follow the id `after`; none if that id is unknown."""
    ids = [item["id"] for item in data]
    start = 0 if after is None else ids.index(after) + 1 if after in ids else len(ids)
    rest = data[start:]
    return page(rest[:limit], has_more=len(rest) > limit)


def deleted(id: str, kind: str) -> dict[str, Any]:
    return {"id": id, "object": kind, "deleted": True}


def stored_completion(job: Job) -> dict[str, Any]:
    """Returns a stored completion with its current metadata."""
    return {**orjson.loads(job.result or b"{}"), "metadata": job.metadata}


def stored_messages(job_id: str, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a request's messages. Their ids are the completion's id with a number, as OpenAI's are."""
    return [
        {"name": None, "refusal": None, **message, "id": f"{job_id}-{index}", **split_content(message.get("content"))}
        for index, message in enumerate(messages)
    ]


def split_content(content: Any) -> dict[str, Any]:
    """Splits content into OpenAI's two fields: text, or the text and image parts."""
    if not isinstance(content, list):
        return {"content": content, "content_parts": None}
    parts = cast(list[dict[str, Any]], content)
    return {"content": None, "content_parts": [part for part in parts if part["type"] in ("text", "image_url")]}


def model_object(model: ModelInfo, workers: int) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": int(model.created_at),
        "owned_by": "ignite",
        "engine": model.engine,
        "context_length": model.context_length,
        "description": model.description,
        "capabilities": model.capabilities,
        "modalities": model.modalities,
        "aliases": model.aliases,
        "parent": model.parent,
        "workers": workers,
    }


def unfold_job(job: Job, result: bytes) -> bytes:
    """Returns the SSE frames of a job without a stream log: the answer of an endpoint other than chat is one frame."""
    return unfold(result) if job.chats else frame(orjson.loads(result)) + DONE


def unfold(result: bytes) -> bytes:
    """Returns the SSE frames of a completion without a stream log, for readers of events; the same in every call."""
    completion = orjson.loads(result)
    head = {key: value for key, value in completion.items() if key not in ("object", "choices", "usage")}
    head["object"] = "chat.completion.chunk"
    parts = [part for choice in completion["choices"] for part in unfold_choice(choice)]
    return b"".join(frame({**head, "choices": [part]}) for part in parts) + DONE


def unfold_choice(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    message = {key: value for key, value in choice["message"].items() if value is not None and key != "role"}
    if "tool_calls" in message:
        message["tool_calls"] = [{"index": index, **call} for index, call in enumerate(message["tool_calls"])]
    deltas: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        (message, None),
        ({}, choice["finish_reason"]),
    ]
    for position, (delta, reason) in enumerate(deltas):
        logprobs = choice.get("logprobs") if position == 1 else None
        yield {"index": choice["index"], "delta": delta, "logprobs": logprobs, "finish_reason": reason}
