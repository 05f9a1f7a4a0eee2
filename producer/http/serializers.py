"""OpenAI's shapes on the producer's side: what clients read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import orjson

from shared.frames import DONE, frame
from shared.job import Job, JobStatus
from shared.ports import ModelInfo

POLLS = (1, 120)
"""Retry-After of a job that is not over, in seconds: the shortest and the longest."""


def job_path(job_id: str) -> str:
    return f"/v1/jobs/{job_id}"


def about_job(job: Job, now: float) -> dict[str, str]:
    """Headers of answers about a job: its id, and for how long it waited, so far or until it was begun or ended."""
    waited = (job.started_at or job.finished_at or now) - job.created_at
    return {"x-job-id": job.id, "x-queue-wait-ms": str(max(0, int(waited * 1000)))}


def about_place(position: int | None, eta: float | None) -> dict[str, str]:
    """Headers of answers about a job that waits, as far as its place is known."""
    said = {"x-queue-position": None if position is None else position + 1, "x-queue-eta-seconds": eta and round(eta)}
    return {name: str(value) for name, value in said.items() if value is not None}


def poll_after(eta: float | None) -> int:
    """Half of what is left: who comes back then is there in time, also if the queue moves faster than it did."""
    shortest, longest = POLLS
    return max(shortest, min(longest, int((eta or 0.0) / 2)))


def job_object(
    job: Job, *, position: int | None = None, eta: float | None = None, workers: int | None = None
) -> dict[str, Any]:
    """`chat.completion.job`."""
    path = job_path(job.id)
    return {
        "id": job.id,
        "object": "chat.completion.job",
        "status": job.status,
        "model": job.model,
        "service_tier": job.tier,
        "created_at": int(job.created_at),
        "started_at": whole(job.started_at),
        "first_token_at": whole(job.first_token_at),
        "finished_at": whole(job.finished_at),
        "deadline_at": int(job.deadline_at),
        "expires_at": whole(job.expires_at),
        "queue": queue_place(job, position, eta, workers=workers),
        "progress": progress(job),
        "attempts": job.attempt,
        "result": orjson.Fragment(job.result) if job.result else None,
        "usage": job.usage,
        "error": job.error,
        "metadata": job.metadata,
        "urls": {
            "self": path,
            "result": f"{path}/result",
            "events": f"{path}/events",
            "cancel": f"{path}/cancel",
        },
    }


def queue_place(job: Job, position: int | None, eta: float | None, workers: int | None) -> dict[str, Any] | None:
    """Where the job waits. Positions count from 1; `workers`: how many there are that could take it."""
    if job.status is not JobStatus.QUEUED:
        return None
    place = None if position is None else position + 1
    return {"position": place, "eta_seconds": None if eta is None else round(eta), "workers": workers}


def progress(job: Job) -> dict[str, int]:
    """Until the engine tells its usage, tokens are counted by their chunks; the first chunk carries the role."""
    tokens = (job.usage or {}).get("completion_tokens", max(0, job.chunks - 1))
    return {"chunks": job.chunks, "completion_tokens": tokens}


def whole(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


def etag(job: Job, position: int | None = None, workers: int | None = None) -> str:
    """Changes whenever the job object does."""
    place = "" if position is None else f"{position}-{workers}"
    return f'"{job.status}-{job.attempt}-{job.chunks}-{place}"'


def page(data: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def page_of(data: Sequence[Mapping[str, Any]], *, after: str | None, limit: int) -> dict[str, Any]:
    """The page of a list that is at hand as a whole: what comes behind the id `after`; nothing, where it is not
    there.
    """
    ids = [item["id"] for item in data]
    start = 0 if after is None else ids.index(after) + 1 if after in ids else len(ids)
    rest = data[start:]
    return page(rest[:limit], has_more=len(rest) > limit)


def deleted(id: str, kind: str) -> dict[str, Any]:
    return {"id": id, "object": kind, "deleted": True}


def stored_completion(job: Job) -> dict[str, Any]:
    """A completion as the list of stored ones shows it: with the metadata of its request, or what replaced it."""
    return {**orjson.loads(job.result or b"{}"), "metadata": job.metadata}


def stored_messages(job_id: str, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A request's messages. Their ids are numbers behind the completion's, as OpenAI's are."""
    return [
        {"name": None, "refusal": None, **message, "id": f"{job_id}-{index}", **split_content(message.get("content"))}
        for index, message in enumerate(messages)
    ]


def split_content(content: Any) -> dict[str, Any]:
    """Content that came in parts is shown as those of them that the API knows how to show."""
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
        "workers": workers,
    }


def unfold(result: bytes) -> bytes:
    """The frames of a completion that was made in one piece, for readers of events: the same ones every time."""
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
