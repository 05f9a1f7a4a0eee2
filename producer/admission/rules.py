"""The admission rules: decide from `Facts` whether a job is refused. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from producer.admission.estimate import answer_limit
from shared.errors import DeadlineExceeded, IgniteError, InvalidRequest, QueueFull, RateLimited, ShuttingDown
from shared.job import Api
from shared.ports import Backlog, ModelInfo
from shared.schema import CallRequest, ChatCompletionRequest, JobRequest
from shared.settings import Settings

DRAIN_RETRY = 5.0
"""Seconds. Retry-After while this replica drains; another replica answers by then."""

WAIT_MARGIN = 0.5
"""A job is refused if even this fraction of its estimated wait ends after its deadline."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits of one queue: waiting jobs, their tokens (0: no limit), and jobs of one tenant (0: no limit)."""

    jobs: int
    tokens: int = 0
    tenant_jobs: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What admission decides by. Times in seconds. `time_left`: until the deadline; `tokens`: the job's estimate;
    `backlog`: of its queue, None if unknown; `wait`: until the job starts, None without a trusted measurement;
    `seconds_until_room`: until a job has left the queue.
    """

    draining: bool
    time_left: float
    limits: QueueLimits
    tokens: int = 0
    backlog: Backlog | None = None
    wait: float | None = None
    seconds_until_room: float | None = None


def refusal(facts: Facts) -> IgniteError | None:
    if facts.draining:
        return ShuttingDown("This server is shutting down.", retry_after=DRAIN_RETRY)
    if facts.time_left <= 0:
        return DeadlineExceeded(
            "The deadline had passed before the request was queued.", code="deadline_exceeded_in_queue"
        )
    if facts.backlog is not None and (full := queue_full(facts, facts.backlog, facts.limits)) is not None:
        return full
    return deadline_too_early(facts)


def queue_full(facts: Facts, backlog: Backlog, limits: QueueLimits) -> IgniteError | None:
    if backlog.jobs >= limits.jobs:
        return QueueFull(f"The queue is full: {backlog.jobs} jobs wait.", retry_after=facts.seconds_until_room)
    if limits.tokens and backlog.jobs and backlog.tokens + facts.tokens > limits.tokens:
        return QueueFull(
            f"The queue is full: about {backlog.tokens} tokens wait.", retry_after=facts.seconds_until_room
        )
    if limits.tenant_jobs and backlog.tenant_jobs >= limits.tenant_jobs:
        return RateLimited(
            f"The queue is full for your tenant: {backlog.tenant_jobs} of your jobs wait, which is the limit.",
            retry_after=facts.seconds_until_room,
        )
    return None


def deadline_too_early(facts: Facts) -> IgniteError | None:
    """Returns the refusal of a job that would most likely still wait at its deadline, else None."""
    if facts.wait is None or facts.wait * WAIT_MARGIN <= facts.time_left:
        return None
    return RateLimited(
        f"The wait in the queue is about {facts.wait:.0f} s, and the deadline is in {facts.time_left:.0f} s: retry "
        "later or set a later deadline.",
        code="deadline_out_of_reach",
        retry_after=facts.wait - facts.time_left,
    )


def jobs_before(backlog: Backlog, *, fair: bool) -> int:
    """Estimates how many jobs start before one that is submitted now."""
    return min(backlog.jobs, backlog.tenant_jobs * backlog.tenants) if fair else backlog.jobs


def check_against_model(request: JobRequest, model: ModelInfo, settings: Settings, *, api: Api = "chat") -> None:
    """Raises InvalidRequest if the model does not support the endpoint, an input, an output or the length of the
    request.
    """
    most = settings.answer_token_limit
    refused = unsupported_endpoint(model, api)
    if refused is None:
        if isinstance(request, CallRequest):
            refused = too_many_tokens(request, model, most)
        else:
            refused = unsupported_modality(request, model) or too_long_answer(request, model, most)
    if refused is not None:
        raise refused


ENDPOINTS = frozenset(get_args(Api))


def unsupported_endpoint(model: ModelInfo, api: Api) -> IgniteError | None:
    """Returns the refusal of a request that the model's engine cannot answer, if it reports what it can."""
    needed = "chat" if api == "responses" else api
    able = [each for each in model.capabilities if each in ENDPOINTS]
    if not able or needed in able:
        return None
    message = f"The model '{model.id}' does not serve {needed}; it serves: {', '.join(able)}."
    return InvalidRequest(message, param="model", code="unsupported_endpoint")


def too_many_tokens(request: CallRequest, model: ModelInfo, most: int) -> IgniteError | None:
    """Returns the refusal of completions that may have more than `most` tokens (0: no limit) together, else None."""
    context = model.context_length
    limit = request.answer_tokens if context is None else min(request.answer_tokens, context)
    if not most or limit * request.answers <= most:
        return None
    return InvalidRequest(
        f"The request asks for too long an answer: {request.answers} completions of {limit} tokens, and all together "
        f"may have {most} tokens.",
        param="max_tokens",
    )


TAKEN_AS = {"text": "text", "refusal": "text", "image_url": "image", "input_audio": "audio", "file": "file"}
"""The modality that a content part needs."""


STRICT = ("vllm", "simulated")
"""Engines that refuse an answer limit above the context. For other engines the worker lowers the limit, as llama.cpp
does (worker/openai/translate.py).
"""


def too_long_answer(request: ChatCompletionRequest, model: ModelInfo, most: int) -> IgniteError | None:
    """Returns the refusal of an answer limit above the model's context, or above `most` tokens (0: no limit) for all
    choices, else None.
    """
    name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    asked, context = answer_limit(request, None), model.context_length
    if asked is not None and context is not None and asked > context and model.engine in STRICT:
        return InvalidRequest(
            f"'{name}' is too large: {asked}. The context of the model '{model.id}' has {context} tokens.",
            param=name,
            code="context_length_exceeded",
        )
    choices = request.n or 1
    limit = answer_limit(request, context)
    if most and limit is not None and limit * choices > most:
        times = f" × n = {choices}" if choices > 1 else ""
        return InvalidRequest(
            f"The request asks for too long an answer: {name} = {asked}{times}, and all choices together may have "
            f"{most} tokens.",
            param=name,
        )
    return None


def unsupported_modality(request: ChatCompletionRequest, model: ModelInfo) -> IgniteError | None:
    """Returns the refusal of an input or output that the model does not support, if its engine reports them."""
    if not model.modalities:
        return None
    if "audio" in (request.modalities or ()) and "audio" not in model.modalities:
        return InvalidRequest(f"The model '{model.id}' answers with text only.", param="modalities")
    for index, message in enumerate(request.messages):
        for at, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if TAKEN_AS[part.type] not in model.modalities:
                taken = ", ".join(model.modalities)
                return InvalidRequest(
                    f"The model '{model.id}' takes {taken}; it cannot take '{part.type}'.",
                    param=f"messages[{index}].content[{at}]",
                )
    return None
