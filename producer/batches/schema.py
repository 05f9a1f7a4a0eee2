"""Models of batches for /openapi.json only. Handlers send bytes that `producer/batches/requests.py` builds."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class BatchProblem(BaseModel):
    code: str
    line: int | None
    message: str
    param: str | None


class BatchProblems(BaseModel):
    object: Literal["list"]
    data: list[BatchProblem]


class BatchCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchUsage(BaseModel):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class Batch(BaseModel):
    """Times are Unix seconds."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchProblems | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    retry_of: str | None = Field(description="The batch whose failed lines this one runs again.")
    expected_finish_at: int | None = Field(description="The last forecast; null without a measured rate.")
    expected_finish_confidence: Literal["none", "low", "high"] = Field(
        description="How much was measured, and how recently."
    )
    tier_in_use: Literal["flex", "default"] = Field(description="`default` while the batch falls behind its window.")


class BatchList(BaseModel):
    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
