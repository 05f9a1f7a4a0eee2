"""The stored document of a batch: what clients see and the progress of its execution, in one place so that both agree.

It is immutable: every change is a new value, written only over the version that was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from producer.batches.throughput import Confidence

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]

KIND = "batch"
TERMINAL: frozenset[Status] = frozenset({"failed", "completed", "expired", "cancelled"})


class Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Kept):
    """An error in one line of the input, or in the whole input."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Segment(Kept):
    """Consecutive whole lines of an output, stored as one object. `level`: how often it was merged."""

    key: str
    size: int
    lines: int
    level: int = 0


class Output(Kept):
    """An output or error file: its id, assigned with the batch, and the segments written so far."""

    file_id: str
    segments: tuple[Segment, ...] = ()

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)

    @property
    def lines(self) -> int:
        return sum(segment.lines for segment in self.segments)


class OpenLine(Kept):
    """A started input line without a written answer: its number and its byte range."""

    number: int
    start: int
    end: int


class DeferredModel(Kept):
    """A model whose lines from this one up to `Batch.next_line` are not started yet. See line_scheduler.py."""

    model: str
    number: int
    start: int


class BatchUsage(Kept):
    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    def plus(self, usage: Mapping[str, Any] | None) -> BatchUsage:
        """Returns the sum with the usage of one completion."""
        used: Mapping[str, Any] = usage or {}
        return BatchUsage(
            input=self.input + (used.get("prompt_tokens") or 0),
            cached=self.cached + detail(used, "prompt_tokens_details", "cached_tokens"),
            output=self.output + (used.get("completion_tokens") or 0),
            reasoning=self.reasoning + detail(used, "completion_tokens_details", "reasoning_tokens"),
        )


def detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    details: Mapping[str, Any] = usage.get(group) or {}
    return details.get(name) or 0


class Batch(Kept):
    """Times are Unix seconds. `retry_of`: only the lines that failed in that batch are run. `models`: those
    that the API key may use, empty for all; `made_with`: id of the stored API key that created it; `weight`: its
    tenant's scheduling weight. `not_run`: how many of the failed lines were not run to their end.

    `generation` counts the runners that took it over, `commits` the writes of the current one. Every line before
    `next_line`, which begins at the byte `next_start`, is done, except those in `open` and those of models in
    `deferred`. `model`: set if all lines name the same one; `asked`: the models that the lines name, if there are
    several and not too many.

    `tokens`: the estimated tokens of all lines by the model that they name, of a sample until the lines are validated;
    `tokens_done`: of the answered lines. `expected_finish_at` is the last forecast. `late`: its window was out of reach
    when it was accepted.
    """

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: float
    expires_at: float
    output: Output
    error: Output
    metadata: dict[str, str] | None = None
    output_retention: float | None = None
    retry_of: str | None = None
    models: tuple[str, ...] = ()
    made_with: str | None = None
    weight: float = 1.0
    webhook_url: str | None = None
    status: Status = "validating"
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    completed_at: float | None = None
    failed_at: float | None = None
    expired_at: float | None = None
    cancelling_at: float | None = None
    cancelled_at: float | None = None
    problems: tuple[Problem, ...] = ()
    model: str | None = None
    asked: tuple[str, ...] = ()
    total: int = 0
    completed: int = 0
    failed: int = 0
    not_run: int = 0
    usage: BatchUsage = BatchUsage()
    tokens: dict[str, int] = {}
    tokens_done: int = 0
    expected_finish_at: float | None = None
    expected_finish_confidence: Confidence = "none"
    tier_in_use: Literal["flex", "default"] = "flex"
    late: bool = False
    generation: int = 0
    commits: int = 0
    next_line: int = 1
    next_start: int = 0
    deferred: tuple[DeferredModel, ...] = Field(default=(), validation_alias=AliasChoices("deferred", "behind"))
    open: tuple[OpenLine, ...] = ()

    @property
    def over(self) -> bool:
        return self.status in TERMINAL

    @property
    def share_left(self) -> float:
        """The share of its tokens that is not answered yet, from 0 to 1."""
        total = sum(self.tokens.values())
        return max(0.0, 1 - self.tokens_done / total) if total else 0.0

    @property
    def ended_at(self) -> float | None:
        return self.completed_at or self.failed_at or self.expired_at or self.cancelled_at

    def output_of(self, file_id: str) -> Output:
        return self.output if file_id == self.output.file_id else self.error

    def with_(self, **changes: Any) -> Batch:
        return self.model_copy(update=changes)
