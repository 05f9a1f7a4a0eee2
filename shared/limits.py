"""The limits of an API key, and how its usage is counted. Pure functions: the embedded backend runs this code, and
the Lua steps `limit_*.lua` implement the same rules in Redis.

A rate is a leaky bucket: usage fills it, and in every WINDOW the amount of the limit drains, evenly. So a client may
use the whole limit at once, and then as much as has drained. The tokens of an answer are counted at its start by an
estimate, and corrected at its end. A job is open from its admission to its end, and at most until its deadline.

Lines of a batch use their key's tokens per minute, but not its requests or its concurrency. Lines wait for tokens, and
leave a part of them to interactive calls, which do not wait. A line that needs more tokens than lines may use waits
until the bucket is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shared.job import JobStatus

WINDOW = 60.0
"""Seconds."""

ROUNDING = 1e-6
"""Overflow of a bucket that is ignored, because floating-point arithmetic causes it."""

BATCH_SHARE = 0.8
"""Share of a key's tokens per minute that lines of batches may use."""

LINES = ":lines"
"""Suffix of a key's id that stands for the key's lines of batches."""

Limited = Literal["requests", "tokens", "concurrency"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a key; None: no limit. `concurrency`: open jobs; `models`: the allowed models, if any are named."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    models: tuple[str, ...] = ()

    @property
    def counted(self) -> bool:
        """Whether any limit needs counting."""
        return any((self.requests_per_minute, self.tokens_per_minute, self.concurrency))


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Allowance:
    """The state of one rate. `reset`: seconds until the bucket is empty, if nothing more is used."""

    limit: int
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """The usage of a key at one moment."""

    requests: float = 0.0
    tokens: float = 0.0
    open_jobs: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one request. `refused`: the limit that refused it, None if admitted; `usage`: afterwards."""

    usage: LimitUsage
    refused: Limited | None = None


def drained(used: float, limit: int | None, seconds: float) -> float:
    """Returns what is left of `used` after `seconds`. Usage without a limit is not counted: 0."""
    return max(0.0, used - limit * max(0.0, seconds) / WINDOW) if limit else 0.0


def fits(used: float, limit: int | None, more: float) -> bool:
    return not limit or used + more <= limit + ROUNDING


def lines_of(key: str) -> str:
    """Returns the id under which the key's lines of batches are counted."""
    return key + LINES


def of_lines(key: str) -> tuple[str, bool]:
    """Returns the id of the key, and whether `key` stands for its lines of batches."""
    return key.removesuffix(LINES), key.endswith(LINES)


def fits_line(used: float, limit: int | None, more: float) -> bool:
    return not limit or used + more <= max(limit * BATCH_SHARE, more) + ROUNDING


def allowance(used: float, limit: int) -> Allowance:
    return Allowance(limit, max(0, int(limit - used + ROUNDING)), used * WINDOW / limit)


def seconds_until_fits(used: float, limit: int | None, more: float) -> float:
    return max(0.0, used + more - limit) * WINDOW / limit if limit else 0.0


def tokens_used(status: JobStatus, usage: Mapping[str, Any] | None, said: int = 0) -> int | None:
    """Returns the tokens that an ended job has used, or None if unknown. A job without usage that did not complete is
    charged for its `said` frames, about one token each.
    """
    if usage is not None:
        return int(usage.get("total_tokens") or 0)
    return None if status is JobStatus.COMPLETED else max(0, said)


@dataclass(slots=True)
class OpenJob:
    tokens: int
    until: float


@dataclass(slots=True)
class Count:
    """The usage of one key. Times are Unix seconds and never decrease."""

    requests: float = 0.0
    tokens: float = 0.0
    at: float = 0.0
    jobs: dict[str, OpenJob] = field(default_factory=dict[str, OpenJob])
    lines: dict[str, OpenJob] = field(default_factory=dict[str, OpenJob])

    def take_line(self, limits: Limits, job_id: str, tokens: int, until: float, now: float) -> Verdict:
        """Counts a line of a batch if it fits. Does nothing if it is open already."""
        self._advance(limits, now)
        if job_id in self.lines:
            return Verdict(self._usage())
        if not fits_line(self.tokens, limits.tokens_per_minute, tokens):
            return Verdict(self._usage(), "tokens")
        self.tokens += tokens
        self.lines[job_id] = OpenJob(tokens, until)
        return Verdict(self._usage())

    def take(self, limits: Limits, job_id: str, tokens: int, until: float, now: float) -> Verdict:
        """Counts a request if it fits all limits, otherwise nothing. Does nothing if its job is open already."""
        self._advance(limits, now)
        if job_id in self.jobs:
            return Verdict(self._usage())
        refused = self._refusal(limits, tokens)
        if refused is None:
            self.requests += 1
            self.tokens += tokens
            self.jobs[job_id] = OpenJob(tokens, until)
        return Verdict(self._usage(), refused)

    def charge(self, limits: Limits, job_id: str, used: int | None, now: float) -> None:
        """Closes a job. `used`: its tokens; None keeps the estimate."""
        self._advance(limits, now)
        job = self.jobs.pop(job_id, None) or self.lines.pop(job_id, None)
        if job is not None and used is not None:
            self.tokens = max(0.0, self.tokens + used - job.tokens)

    def refund(self, limits: Limits, job_id: str, now: float) -> None:
        """Removes a request that was counted but not accepted."""
        if job_id in self.jobs:
            self.charge(limits, job_id, 0, now)
            self.requests = max(0.0, self.requests - 1)

    def idle(self, limits: Limits, now: float) -> bool:
        """Whether this count equals a new one."""
        self._advance(limits, now)
        return not self.jobs and not self.lines and not self.requests and not self.tokens

    def _advance(self, limits: Limits, now: float) -> None:
        passed, self.at = now - self.at, max(now, self.at)
        self.requests = drained(self.requests, limits.requests_per_minute, passed)
        self.tokens = drained(self.tokens, limits.tokens_per_minute, passed)
        for open_jobs in (self.jobs, self.lines):
            for job_id in [job_id for job_id, job in open_jobs.items() if job.until <= now]:
                del open_jobs[job_id]

    def _refusal(self, limits: Limits, tokens: int) -> Limited | None:
        if not fits(len(self.jobs), limits.concurrency, 1):
            return "concurrency"
        if not fits(self.requests, limits.requests_per_minute, 1):
            return "requests"
        return None if fits(self.tokens, limits.tokens_per_minute, tokens) else "tokens"

    def _usage(self) -> LimitUsage:
        return LimitUsage(self.requests, self.tokens, len(self.jobs))
