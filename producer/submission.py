"""What a client asks for, whichever door it came by."""

from __future__ import annotations

from dataclasses import dataclass

from producer.auth import Principal
from shared.job import IdempotencyKey, Mode, Tier
from shared.schema import ChatCompletionRequest


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked request and what its call says about it. `detached`: the job runs on when the client leaves.

    `patience`: seconds for which the client's SDK waits to hear something, where it will not ask again.
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
        match self.request.service_tier:
            case None | "auto" | "default":
                return Tier.DEFAULT
            case tier:
                return Tier(tier)
