"""Applies the rate limits of API keys to calls. Calls of keys without limits skip it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from producer.auth.keyring import Principal
from shared.aio import run_and_discard
from shared.errors import NeverAllowed, RateLimited
from shared.job import Job, JobStatus, born_at
from shared.limits import Limits, LimitUsage, Verdict, allowance, seconds_until_fits, tokens_used
from shared.ports import JobReader, Limiter

CHECKED_JOBS = 100
"""Open jobs of a key that are checked when one of its limits is reached."""

CHECK_AGAIN = 1.0
"""Seconds until the next check of a key after one that found no ended job."""

REMEMBERED = 600.0
"""Seconds for which a key's last check is remembered."""

CREATION_GRACE = 30.0
"""Seconds after which a counted job without a record is dropped: its API process died before writing the record."""

FULL_RETRY = 1.0
"""Seconds. Retry-After for a client with too many open jobs, whose ends cannot be predicted."""


@dataclass(slots=True)
class Meter:
    """Counts one call against its key's limits. `usage`: the key's usage when it was last counted."""

    key: str
    limits: Limits
    limiter: Limiter
    ended: EndedJobs
    usage: LimitUsage | None = None
    job_id: str | None = None

    async def take(self, job: Job) -> None:
        """Counts the job against the key. Raises RateLimited, NeverAllowed."""
        most = self.limits.tokens_per_minute
        if most is not None and job.tokens > most:
            raise NeverAllowed(
                f"The request needs about {job.tokens:,} tokens (its prompt, and the answer's max_tokens), and the "
                f"key's limit is {most:,} a minute: shorten the prompt or lower max_tokens."
            )
        verdict = await self._count(job)
        if verdict.refused in ("concurrency", "tokens") and await self.ended.charge(self.key):
            verdict = await self._count(job)
        if verdict.refused is not None:
            raise refusal(verdict, self.limits, job.tokens)
        self.job_id = job.id

    async def _count(self, job: Job) -> Verdict:
        verdict = await self.limiter.take(self.key, self.limits, job.id, tokens=job.tokens, until=job.deadline_at)
        self.usage = verdict.usage
        return verdict

    def charge(self, status: JobStatus, usage: Mapping[str, Any] | None) -> None:
        """Charges an ended job's tokens to the key and frees its slot. Called before the client gets the end, so that
        the client's next call finds the slot free. `EndedJobs` charges jobs that ended without usage.
        """
        if self.job_id is not None and (usage is not None or status is JobStatus.COMPLETED):
            run_in_background(self.limiter.charge(self.key, self.job_id, used=tokens_used(status, usage)))

    def refund(self) -> None:
        """Cancels the count of a job that was not accepted."""
        if self.job_id is not None:
            run_in_background(self.limiter.refund(self.key, self.job_id))

    def headers(self) -> dict[str, str]:
        return {} if self.usage is None else rate_limit_headers(self.usage, self.limits)


@dataclass(frozen=True, slots=True)
class LastCheck:
    """The last check of a key's open jobs. `at`: its monotonic time; `skip`: jobs that the next check passes over."""

    at: float
    skip: int = 0
    found_none: bool = False


class EndedJobs:
    """Finds ended jobs that still count as open, because a process died before it had charged or recorded them."""

    def __init__(self, limiter: Limiter, store: JobReader) -> None:
        self._limiter = limiter
        self._store = store
        self._checks: dict[str, LastCheck] = {}

    async def charge(self, key: str) -> bool:
        """Charges the key's ended jobs. Returns whether there were any."""
        now = time.monotonic()
        self._checks = {key: last for key, last in self._checks.items() if last.at > now - REMEMBERED}
        last = self._checks.get(key, LastCheck(-math.inf))
        if last.found_none and last.at > now - CHECK_AGAIN:
            return False
        job_ids = await self._limiter.open_jobs(key, CHECKED_JOBS, skip=last.skip)
        jobs = await asyncio.gather(*(self._store.get(job_id) for job_id in job_ids))
        over = [job_id for job_id, job in zip(job_ids, jobs, strict=True) if is_over(job_id, job)]
        used = {job.id: tokens_used(job.status, job.usage, job.chunks) for job in jobs if job is not None}
        await asyncio.gather(*(self._limiter.charge(key, job_id, used=used.get(job_id, 0)) for job_id in over))
        more = len(job_ids) == CHECKED_JOBS
        self._checks[key] = LastCheck(now, last.skip + CHECKED_JOBS - len(over) if more else 0, found_none=not over)
        return bool(over)


class KeyLimits:
    """Creates the meters of calls whose key has limits."""

    def __init__(self, limiter: Limiter, store: JobReader) -> None:
        self._limiter = limiter
        self._ended = EndedJobs(limiter, store)

    def meter(self, principal: Principal) -> Meter | None:
        if principal.key is None or not principal.limits.counted:
            return None
        return Meter(principal.key, principal.limits, self._limiter, ended=self._ended)


def is_over(job_id: str, job: Job | None) -> bool:
    return born_at(job_id) < time.time() - CREATION_GRACE if job is None else job.status.terminal


def run_in_background(step: Any) -> None:
    """Runs a step without waiting for it. If it fails, `EndedJobs` repairs the count when the limit is reached."""
    asyncio.ensure_future(step).add_done_callback(run_and_discard)


def refusal(verdict: Verdict, limits: Limits, tokens: int) -> RateLimited:
    usage = verdict.usage
    match verdict.refused:
        case "requests":
            wait = seconds_until_fits(usage.requests, limits.requests_per_minute, 1)
            message = f"Rate limit reached for requests: {limits.requests_per_minute:,} a minute."
        case "tokens":
            wait = seconds_until_fits(usage.tokens, limits.tokens_per_minute, tokens)
            left = allowance(usage.tokens, limits.tokens_per_minute or 1).remaining
            message = (
                f"Rate limit reached for tokens: {limits.tokens_per_minute:,} a minute, of which {left:,} are left; "
                f"this request needs about {tokens:,}."
            )
        case _:
            wait, message = FULL_RETRY, f"Rate limit reached for open jobs: {limits.concurrency:,} at once."
    return RateLimited(f"{message} Please try again in {duration(wait)}.", retry_after=math.ceil(wait))


def rate_limit_headers(usage: LimitUsage, limits: Limits) -> dict[str, str]:
    """Returns the rate limit headers with OpenAI's names and format."""
    headers: dict[str, str] = {}
    for name, used, limit in (
        ("requests", usage.requests, limits.requests_per_minute),
        ("tokens", usage.tokens, limits.tokens_per_minute),
    ):
        if limit is not None:
            budget = allowance(used, limit)
            headers[f"x-ratelimit-limit-{name}"] = str(budget.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(budget.remaining)
            headers[f"x-ratelimit-reset-{name}"] = duration(budget.reset)
    return headers


def duration(seconds: float) -> str:
    """Formats seconds as `1s` or `6m0s`, rounded up so that clients do not retry too early."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
