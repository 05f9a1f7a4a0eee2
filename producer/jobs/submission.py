"""What a client asks for, whichever gate it came by."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from producer.admission.estimate import estimated_tokens
from producer.admission.rate_limits import Meter
from producer.auth.keyring import Principal
from shared.job import IdempotencyKey, Job, Mode, Tier, new_job_id
from shared.schema import ChatCompletionRequest
from shared.settings import Settings

TOLD_FOR = 86_400.0
"""Seconds for which it is tried to tell of a job's end."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked request and what its call says about it. `meter` counts it, where its key has limits.

    `detached`: the job runs on when the client leaves. `patience`: seconds for which the client's SDK waits to hear
    something, where it will not ask again. `sent`: a digest of a request that its SDK may send again on its own,
    `sent_again` whether it does so.
    """

    principal: Principal
    body: bytes
    request: ChatCompletionRequest
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

    @property
    def tenant(self) -> str:
        return self.principal.tenant

    @property
    def runs_on(self) -> bool:
        """When its client leaves. Who named its request will come back and ask for it."""
        named = self.idempotency_key is not None
        return self.detached or self.background or bool(self.request.store) or named

    @property
    def deadline(self) -> float | None:
        """Seconds until the job's deadline, where the client set one. Its SDK's patience is one for a unary call; a
        stream that has begun may go on for longer than that.
        """
        patience = self.patience if self.mode == "unary" else None
        return self.request.deadline_seconds or self.deadline_seconds or patience

    @property
    def tier(self) -> Tier:
        """OpenAI has more names than there are tiers: `fast` is another for `priority`, and `scale` is a contract."""
        match self.request.service_tier:
            case "priority" | "fast":
                return Tier.PRIORITY
            case "flex":
                return Tier.FLEX
            case None | "auto" | "default" | "scale":
                return Tier.DEFAULT


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
        stored=bool(request.store),
        seed=None if request.seed is not None else int.from_bytes(os.urandom(4)) >> 1,
        metadata=request.metadata or {},
        idempotency_key=submission.idempotency_key,
        webhook_url=request.webhook_url,
        limit_key=None if submission.meter is None else submission.meter.key,
        made_with=submission.principal.key,
        tokens=estimated_tokens(request, len(submission.body)),
        weight=settings.weights.get(submission.tenant, submission.principal.weight),
    )


def retention_of(submission: Submission, settings: Settings) -> float:
    """The longest that something about the request asks for."""
    named = submission.idempotency_key is not None
    as_job = settings.job_retention if submission.background or named else 0.0
    as_stored = settings.store_retention if submission.request.store else 0.0
    to_be_told = TOLD_FOR if submission.request.webhook_url is not None else 0.0
    return max(as_job, as_stored, to_be_told) or settings.retention
