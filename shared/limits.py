"""What a key may use, and how that is counted. Pure: every backend counts by these rules, embedded by this very code.

A rate is a bucket that drains: what is used fills it, and the limit flows out every WINDOW, evenly. So the whole limit
may be used at once, and then as much as has flowed out. An answer's tokens are counted before it is made, by an
estimate, and corrected at its end. A job is open from its admission to its end, and at most until its deadline.

Lines of a batch share their key's tokens, and nothing else of its limits: they are no requests of their own, and a
batch bounds how many are open. They wait for tokens, and leave a part of them to calls, which do not wait. A line that
needs more than lines may ever have waits until nothing counts as used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shared.job import JobStatus

WINDOW = 60.0
"""Seconds."""

ROUNDING = 1e-6
"""By how much a bucket may seem to overflow through floating point alone."""

FOR_LINES = 0.8
"""Of a key's tokens a minute: what counts as used when a batch may still start a line."""

LINES = ":lines"
"""Behind a key's id: its lines of batches."""

Limited = Literal["requests", "tokens", "concurrency"]


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. `concurrency`: open jobs. `models`: the only ones that may be used, where there are any."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    models: tuple[str, ...] = ()

    @property
    def counted(self) -> bool:
        """Whether anything needs counting."""
        return any((self.requests_per_minute, self.tokens_per_minute, self.concurrency))


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Allowance:
    """One rate as it stands. `reset`: seconds until nothing counts as used any more, if no more is used."""

    limit: int
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """What counts as used at one moment, by a key."""

    requests: float = 0.0
    tokens: float = 0.0
    open_jobs: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`refused` names what there was too much of; None: admitted. `usage`: after that."""

    usage: LimitUsage
    refused: Limited | None = None


def drained(used: float, limit: int | None, seconds: float) -> float:
    """What is left of `used` after so long. What has no limit is not counted."""
    return max(0.0, used - limit * max(0.0, seconds) / WINDOW) if limit else 0.0


def fits(used: float, limit: int | None, more: float) -> bool:
    return not limit or used + more <= limit + ROUNDING


def lines_of(key: str) -> str:
    """The name under which the key's lines of batches are counted."""
    return key + LINES


def of_lines(key: str) -> tuple[str, bool]:
    """The key itself, and whether its lines were meant."""
    return key.removesuffix(LINES), key.endswith(LINES)


def fits_line(used: float, limit: int | None, more: float) -> bool:
    return not limit or used + more <= max(limit * FOR_LINES, more) + ROUNDING


def allowance(used: float, limit: int) -> Allowance:
    return Allowance(limit, max(0, int(limit - used + ROUNDING)), used * WINDOW / limit)


def seconds_until_fits(used: float, limit: int | None, more: float) -> float:
    return max(0.0, used + more - limit) * WINDOW / limit if limit else 0.0


def tokens_used(status: JobStatus, usage: Mapping[str, Any] | None, said: int = 0) -> int | None:
    """By a job that has ended so; None: nobody knows. One that did not complete and has no usage has used what it has
    `said`, in frames: about a token each.
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
    """What one key has used. Times are Unix seconds, and never before those that came earlier."""

    requests: float = 0.0
    tokens: float = 0.0
    at: float = 0.0
    jobs: dict[str, OpenJob] = field(default_factory=dict[str, OpenJob])
    lines: dict[str, OpenJob] = field(default_factory=dict[str, OpenJob])

    def take_line(self, limits: Limits, job_id: str, tokens: int, until: float, now: float) -> Verdict:
        """The same for a line of a batch."""
        self._advance(limits, now)
        if job_id in self.lines:
            return Verdict(self._usage())
        if not fits_line(self.tokens, limits.tokens_per_minute, tokens):
            return Verdict(self._usage(), "tokens")
        self.tokens += tokens
        self.lines[job_id] = OpenJob(tokens, until)
        return Verdict(self._usage())

    def take(self, limits: Limits, job_id: str, tokens: int, until: float, now: float) -> Verdict:
        """All or nothing; for a job that is open already, nothing more."""
        self._advance(limits, now)
        if job_id in self.jobs:
            return Verdict(self._usage())
        refused = self._refusal(limits, tokens)
        if refused is None:
            self.requests += 1
            self.tokens += tokens
            self.jobs[job_id] = OpenJob(tokens, until)
        return Verdict(self._usage(), refused)

    def settle(self, limits: Limits, job_id: str, used: int | None, now: float) -> None:
        """`used`: the job's tokens, where they are known; otherwise the estimate stands."""
        self._advance(limits, now)
        job = self.jobs.pop(job_id, None) or self.lines.pop(job_id, None)
        if job is not None and used is not None:
            self.tokens = max(0.0, self.tokens + used - job.tokens)

    def give_back(self, limits: Limits, job_id: str, now: float) -> None:
        """As if the job had never been admitted."""
        if job_id in self.jobs:
            self.settle(limits, job_id, 0, now)
            self.requests = max(0.0, self.requests - 1)

    def idle(self, limits: Limits, now: float) -> bool:
        """Whether a new count would say the same."""
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
