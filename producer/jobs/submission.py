"""A client's submission, from HTTP or gRPC, and the job made from it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from producer.admission.estimate import estimated_tokens
from producer.admission.rate_limits import Meter
from producer.auth.keyring import Principal
from shared.job import Api, IdempotencyKey, Job, Mode, Tier, new_job_id
from shared.schema import ChatCompletionRequest, JobRequest
from shared.settings import Settings

WEBHOOK_RETRY_FOR = 86_400.0
"""How long a webhook is retried after the job's end, in seconds."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A validated request with the parameters of its call. `meter` charges it, where its API key has limits.

    `detached`: the job runs on when the client leaves. `patience`: timeout in seconds of the client's SDK, where it
    will not retry. `sent`: digest of a request that its SDK may retry; `sent_again`: this is a retry.
    `prompt_bytes`: the part of the body that goes to the engine, where that is not all of it.
    """

    principal: Principal
    body: bytes
    request: JobRequest
    mode: Mode
    detached: bool = False
    background: bool = False
    deadline_seconds: float | None = None
    patience: float | None = None
    idempotency_key: IdempotencyKey | None = None
    meter: Meter | None = None
    sent: str | None = None
    sent_again: bool = False
    traceparent: str | None = None
    request_id: str | None = None
    api: Api = "chat"
    prompt_bytes: int | None = None

    @property
    def tenant(self) -> str:
        return self.principal.tenant

    @property
    def runs_on(self) -> bool:
        """Whether the job runs on when its client leaves: a client with an idempotency key can ask for it again. A
        response is stored unless the client says otherwise, so that alone does not mean it.
        """
        named = self.idempotency_key is not None
        return self.detached or self.background or named or (self.api == "chat" and stores(self.request))

    @property
    def size(self) -> int:
        """Bytes by which the prompt's tokens are estimated."""
        return len(self.body) if self.prompt_bytes is None else self.prompt_bytes

    @property
    def deadline(self) -> float | None:
        """Seconds until the job's deadline, where the client set one. The SDK's timeout counts only for a unary call: a
        started stream may last longer.
        """
        patience = self.patience if self.mode == "unary" else None
        return self.window or patience

    @property
    def window(self) -> float | None:
        """Seconds until the deadline that the client gave the job; an SDK's timeout is none."""
        return self.request.deadline_seconds or self.deadline_seconds

    @property
    def tier(self) -> Tier:
        """The tier for OpenAI's `service_tier`: `fast` means `priority`, and `scale`, a contract, the default."""
        match self.request.service_tier:
            case "priority" | "fast":
                return Tier.PRIORITY
            case "flex":
                return Tier.FLEX
            case None | "auto" | "default" | "scale":
                return Tier.DEFAULT


def stores(request: JobRequest) -> bool:
    """Whether the client asked for the completion, or the response, to be stored."""
    return isinstance(request, ChatCompletionRequest) and bool(request.store)


def needs_seed(request: JobRequest) -> bool:
    """Whether the job gets a seed of its own, by which a lost answer is generated again."""
    return isinstance(request, ChatCompletionRequest) and request.seed is None


def new_job(submission: Submission, settings: Settings) -> Job:
    request, now = submission.request, time.time()
    return Job(
        id=new_job_id(now),
        tenant=submission.tenant,
        model=request.model,
        tier=submission.tier,
        mode=submission.mode,
        created_at=now,
        deadline_at=now + (submission.deadline or settings.job_deadline),
        retention=retention_of(submission, settings),
        detached=submission.runs_on,
        stored=stores(request),
        seed=int.from_bytes(os.urandom(4)) >> 1 if needs_seed(request) else None,
        metadata=request.metadata or {},
        idempotency_key=submission.idempotency_key,
        webhook_url=request.webhook_url,
        limit_key=None if submission.meter is None else submission.meter.key,
        made_with=submission.principal.key,
        request_id=submission.request_id,
        api=submission.api,
        tokens=estimated_tokens(request, submission.size),
        weight=settings.weights.get(submission.tenant, submission.principal.weight),
        window_end=None if submission.window is None else now + submission.window,
    )


def retention_of(submission: Submission, settings: Settings) -> float:
    """Returns the longest retention, in seconds, that the request needs."""
    named = submission.idempotency_key is not None
    stored = stores(submission.request)
    as_response = submission.api == "responses" and stored
    as_job = settings.job_retention if submission.background or named or as_response else 0.0
    as_stored = settings.store_retention if stored and not as_response else 0.0
    for_webhook = WEBHOOK_RETRY_FOR if submission.request.webhook_url is not None else 0.0
    return max(as_job, as_stored, for_webhook) or settings.retention
