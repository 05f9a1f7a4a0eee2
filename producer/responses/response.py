"""The response object, from a job's record and what its request keeps. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from producer.responses.ids import response_id
from producer.responses.kept import Kept
from producer.responses.translate import recorded
from shared.job import Job, JobStatus

INCOMPLETE: Mapping[str | None, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Chat's reasons to finish that leave a response incomplete, with the response's reason."""

ERROR_CODES: Mapping[str, str] = {"invalid_request_error": "invalid_prompt", "rate_limit_error": "rate_limit_exceeded"}
"""The code of a response's error, by the type of the job's; others are `server_error`. OpenAI's types allow no other
codes.
"""

STATUSES: Mapping[JobStatus, str] = {
    JobStatus.QUEUED: "queued",
    JobStatus.IN_PROGRESS: "in_progress",
    JobStatus.FAILED: "failed",
    JobStatus.EXPIRED: "failed",
    JobStatus.CANCELLED: "cancelled",
}


def status_of(job: Job, finish_reason: str | None) -> str:
    if job.status is JobStatus.COMPLETED:
        return "incomplete" if finish_reason in INCOMPLETE else "completed"
    return STATUSES[job.status]


def response_object(
    job: Job,
    kept: Kept,
    *,
    status: str,
    output: Sequence[Mapping[str, Any]] = (),
    usage: Mapping[str, Any] | None = None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    """`job`: as it is at the status, with its end where it has ended."""
    ended = job.status.terminal
    return {
        "id": response_id(job.id),
        "object": "response",
        "created_at": int(job.created_at),
        "status": status,
        "completed_at": int(job.finished_at) if status == "completed" and job.finished_at else None,
        "error": response_error(job.error) if status == "failed" else None,
        "incomplete_details": {"reason": INCOMPLETE[finish_reason]} if status == "incomplete" else None,
        "model": job.model,
        "output": list(output),
        "usage": response_usage(usage) if ended and usage else None,
        "service_tier": str(job.tier),
        **kept.echo,
    }


def response_error(error: Mapping[str, Any] | None) -> dict[str, Any]:
    found = recorded(error or {"message": "The job failed."})
    return {"code": ERROR_CODES.get(found.recorded_type, "server_error"), "message": found.message}


def response_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Returns chat's usage under the names of the Responses API."""
    prompt: Mapping[str, Any] = usage.get("prompt_tokens_details") or {}
    answer: Mapping[str, Any] = usage.get("completion_tokens_details") or {}
    read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": prompt.get("cached_tokens") or 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": answer.get("reasoning_tokens") or 0},
        "total_tokens": usage.get("total_tokens") or read + written,
    }


def finish_reason_of(job: Job) -> str | None:
    """Returns chat's reason of a job's first choice, from its result; None where there is none."""
    if not job.result:
        return None
    choices = orjson.loads(job.result).get("choices") or ()
    return choices[0].get("finish_reason") if choices else None
