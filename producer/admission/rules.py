"""Who may submit what, decided without waiting. Pure: facts in, a refusal or nothing out."""

from __future__ import annotations

from dataclasses import dataclass

from producer.admission.estimate import answer_limit
from shared.errors import DeadlineExceeded, IgniteError, InvalidRequest, QueueFull, RateLimited, ShuttingDown
from shared.ports import Backlog, ModelInfo
from shared.schema import ChatCompletionRequest
from shared.settings import Settings

DRAIN_RETRY = 5.0
"""Seconds until a client should try again while this replica drains: another one answers by then."""

SOONEST = 0.5
"""Of the wait that is estimated: a job for which even that is too long will not be in time."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may wait in one queue: jobs, tokens (0: any number), and jobs of one tenant (0: any number)."""

    jobs: int
    tokens: int = 0
    tenant_jobs: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What admission looks at. Times in seconds. `time_left`: until the deadline; `tokens`: the job's own estimate;
    `backlog`: what waits in its queue, None where that is not known; `wait`: until the job would be started, None where
    no measurement of it can be trusted; `room_in`: until a job has left the queue.
    """

    draining: bool
    time_left: float
    limits: QueueLimits
    tokens: int = 0
    backlog: Backlog | None = None
    wait: float | None = None
    room_in: float | None = None


def refusal(facts: Facts) -> IgniteError | None:
    if facts.draining:
        return ShuttingDown("This server is shutting down.", retry_after=DRAIN_RETRY)
    if facts.time_left <= 0:
        return DeadlineExceeded(
            "The deadline had passed before the request was queued.", code="deadline_exceeded_in_queue"
        )
    if facts.backlog is not None and (full := overfull(facts, facts.backlog, facts.limits)) is not None:
        return full
    return out_of_reach(facts)


def overfull(facts: Facts, backlog: Backlog, limits: QueueLimits) -> IgniteError | None:
    if backlog.jobs >= limits.jobs:
        return QueueFull(f"The queue is full: {backlog.jobs} jobs wait.", retry_after=facts.room_in)
    if limits.tokens and backlog.jobs and backlog.tokens + facts.tokens > limits.tokens:
        return QueueFull(f"The queue is full: about {backlog.tokens} tokens wait.", retry_after=facts.room_in)
    if limits.tenant_jobs and backlog.tenant_jobs >= limits.tenant_jobs:
        return RateLimited(
            f"{backlog.tenant_jobs} of your jobs wait in this queue, and no more may.", retry_after=facts.room_in
        )
    return None


def out_of_reach(facts: Facts) -> IgniteError | None:
    """A client learns now what it would learn at its deadline."""
    if facts.wait is None or facts.wait * SOONEST <= facts.time_left:
        return None
    return RateLimited(
        f"The wait is about {facts.wait:.0f} s, and the deadline is in {facts.time_left:.0f} s.",
        code="deadline_out_of_reach",
        retry_after=facts.wait - facts.time_left,
    )


def jobs_before(backlog: Backlog, *, fair: bool) -> int:
    """About how many jobs would be started before one that is submitted now."""
    return min(backlog.jobs, backlog.tenant_jobs * backlog.tenants) if fair else backlog.jobs


def check_against_model(request: ChatCompletionRequest, model: ModelInfo, settings: Settings) -> None:
    """Raises what the model cannot take or give of the request."""
    refused = unreadable(request, model) or too_long(request, model, settings.answer_token_limit)
    if refused is not None:
        raise refused


TAKEN_AS = {"text": "text", "refusal": "text", "image_url": "image", "input_audio": "audio", "file": "file"}
"""The modality that a content part needs."""


STRICT = ("vllm", "simulated")
"""Engines that refuse an answer limit beyond the context. For others the worker lowers it, as llama.cpp does
(worker/openai/translate.py).
"""


def too_long(request: ChatCompletionRequest, model: ModelInfo, most: int) -> IgniteError | None:
    """Whether the request asks for a longer answer than the model can give, or than `most` tokens (0: any number) in
    all its choices.
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


def unreadable(request: ChatCompletionRequest, model: ModelInfo) -> IgniteError | None:
    """What of a request the model cannot take or give, where its engine tells what it can."""
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
