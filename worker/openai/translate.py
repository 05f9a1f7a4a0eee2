"""Translates a client's request for engines, and an engine's completion for clients. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from shared.errors import EngineError, InvalidRequest
from shared.job import Job
from shared.schema import NOT_FOR_ENGINES
from worker.engines.base import EngineRequest
from worker.openai.allowed_tools import with_allowed_tools, without_empty_tools
from worker.openai.legacy_functions import as_tools

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})


def decoded(body: bytes) -> dict[str, Any]:
    """Returns the request. Raises InvalidRequest where another publisher than the API has queued invalid JSON."""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The request is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(asked, dict):
        raise InvalidRequest("The request is not a JSON object.", code="invalid_json")
    return cast(dict[str, Any], asked)


def engine_request(asked: Mapping[str, Any], job: Job) -> EngineRequest:
    """Returns the request for the engine: without Ignite's fields, with the model's id in place of an alias, and with
    the job's seed for a replay.
    """
    request = {key: value for key, value in asked.items() if key not in NOT_FOR_ENGINES}
    request["model"] = job.model
    if request.get("seed") is None and job.seed is not None:
        request["seed"] = job.seed
    found = EngineRequest(without_empty_tools(with_allowed_tools(as_tools(request))))
    found.tier = str(job.tier)
    found.added = frozenset(key for key in ("seed", "parallel_tool_calls") if asked.get(key) is None)
    return found


LIMITS = ("max_completion_tokens", "max_tokens")


def bounded(request: EngineRequest, context: int | None, default: int = 0) -> EngineRequest:
    """Lowers the token limits of `request`, in place, to the model's context. Where that is unknown, a request without
    a limit gets `default`, if not 0: a server without a limit of its own might never end its answer.
    """
    if context is None and default and not any(request.get(name) for name in LIMITS):
        request["max_tokens"] = default
        request.added |= {"max_tokens"}
    for name in LIMITS:
        if context is not None and (request.get(name) or 0) > context:
            request[name] = context
    return request


def include_usage(asked: Mapping[str, Any]) -> bool:
    options: Mapping[str, Any] = asked.get("stream_options") or {}
    return bool(options.get("include_usage"))


def head(job: Job) -> dict[str, Any]:
    """Returns the fields that every chunk and the completion of a job share."""
    return {
        "id": job.id,
        "created": int(job.created_at),
        "model": job.model,
        "service_tier": str(job.tier),
    }


def completion(job: Job, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the completion for the client. Raises EngineError if the engine left out a field that OpenAI requires."""
    try:
        choices = [openai_choice(choice) for choice in answer["choices"]]
    except (KeyError, TypeError) as error:
        raise EngineError(f"The engine's answer is not a chat completion: {error!r}.") from error
    passed_on = {key: value for key, value in answer.items() if key not in OUR_OWN and value is not None}
    return {**head(job), "object": "chat.completion", "choices": choices, "usage": answer.get("usage"), **passed_on}


OUR_OWN = frozenset({"id", "object", "created", "model", "service_tier", "choices", "usage", "error"})
"""Fields that Ignite sets itself; all other fields of the engine's answer are passed on."""

CHOICE_FIELDS = frozenset({"index", "message", "logprobs", "finish_reason"})


def openai_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Returns OpenAI's choice: with `content`, `refusal` and `logprobs` even when null, without other empty fields."""
    known = {key: value for key, value in choice["message"].items() if value not in (None, [], {})}
    message = {"role": "assistant", "content": choice["message"].get("content"), "refusal": None} | known
    return {
        "index": choice["index"],
        "message": message,
        "logprobs": openai_logprobs(choice.get("logprobs")),
        "finish_reason": finish_reason(choice.get("finish_reason")),
        **{key: value for key, value in choice.items() if key not in CHOICE_FIELDS and value is not None},
    }


def openai_logprobs(logprobs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Adds the fields that OpenAI requires: engines leave out empty ones."""
    if not logprobs:
        return None
    tokens = {name: logprobs.get(name) for name in ("content", "refusal")}
    return {
        name: found and [{"bytes": None, "top_logprobs": [], **token} for token in found]
        for name, found in tokens.items()
    }


def finish_reason(reason: str | None) -> str | None:
    """Returns one of OpenAI's reasons: SDKs reject others, and engines have their own (`abort`, `eos_token`)."""
    return reason if reason is None or reason in FINISH_REASONS else "stop"
