"""Limits of keys, as calls meet them. A key without limits costs nothing here."""

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
from shared.ports import JobStore, Limiter

LOOKED_AT = 100
"""Open jobs of a key that are looked at when one of its limits is reached."""

LOOK_AGAIN = 1.0
"""Seconds until the next ones are looked at where all of them were still open."""

REMEMBERED = 600.0
"""Seconds for which it is known how many of a key's open jobs were looked at."""

UNBORN = 30.0
"""Seconds after which a job that the store does not know is none: its API died between counting and writing it."""

FULL_RETRY = 1.0
"""Seconds until a client with too many open jobs should try again: nobody knows which of them ends next."""


@dataclass(slots=True)
class Meter:
    """What one call counts against its key. `usage`: what counted as used when that was last asked."""

    key: str
    limits: Limits
    limiter: Limiter
    ended: EndedJobs
    usage: LimitUsage | None = None
    job_id: str | None = None

    async def take(self, job: Job) -> None:
        """Raises RateLimited, NeverAllowed."""
        most = self.limits.tokens_per_minute
        if most is not None and job.tokens > most:
            raise NeverAllowed(
                f"The request needs about {job.tokens:,} tokens (its prompt, and the answer's max_tokens), and the "
                f"key's limit is {most:,} a minute."
            )
        verdict = await self._count(job)
        if verdict.refused in ("concurrency", "tokens") and await self.ended.settle(self.key):
            verdict = await self._count(job)
        if verdict.refused is not None:
            raise refusal(verdict, self.limits, job.tokens)
        self.job_id = job.id

    async def _count(self, job: Job) -> Verdict:
        verdict = await self.limiter.take(self.key, self.limits, job.id, tokens=job.tokens, until=job.deadline_at)
        self.usage = verdict.usage
        return verdict

    def settle(self, status: JobStatus, usage: Mapping[str, Any] | None) -> None:
        """The job is over. Before its client can hear of it, so that the next call finds the room. What one that broke
        off has used, the store knows.
        """
        if self.job_id is not None and (usage is not None or status is JobStatus.COMPLETED):
            forget(self.limiter.settle(self.key, self.job_id, used=tokens_used(status, usage)))

    def give_back(self) -> None:
        """The job was not accepted."""
        if self.job_id is not None:
            forget(self.limiter.give_back(self.key, self.job_id))

    def headers(self) -> dict[str, str]:
        return {} if self.usage is None else rate_limit_headers(self.usage, self.limits)


@dataclass(frozen=True, slots=True)
class Look:
    """At a key's open jobs, at `at`. `skip`: how many of them the next look may pass over."""

    at: float
    skip: int = 0
    in_vain: bool = False


class EndedJobs:
    """Jobs that are over and still count as open: a process died before it had settled them, or had written them."""

    def __init__(self, limiter: Limiter, store: JobStore) -> None:
        self._limiter = limiter
        self._store = store
        self._looked: dict[str, Look] = {}

    async def settle(self, key: str) -> bool:
        """Whether there were any."""
        now = time.monotonic()
        self._looked = {key: look for key, look in self._looked.items() if look.at > now - REMEMBERED}
        look = self._looked.get(key, Look(-math.inf))
        if look.in_vain and look.at > now - LOOK_AGAIN:
            return False
        job_ids = await self._limiter.open_jobs(key, LOOKED_AT, skip=look.skip)
        jobs = await asyncio.gather(*(self._store.get(job_id) for job_id in job_ids))
        over = [job_id for job_id, job in zip(job_ids, jobs, strict=True) if is_over(job_id, job)]
        used = {job.id: tokens_used(job.status, job.usage, job.chunks) for job in jobs if job is not None}
        await asyncio.gather(*(self._limiter.settle(key, job_id, used=used.get(job_id, 0)) for job_id in over))
        more = len(job_ids) == LOOKED_AT
        self._looked[key] = Look(now, look.skip + LOOKED_AT - len(over) if more else 0, in_vain=not over)
        return bool(over)


class KeyLimits:
    """Gives every call of a key with limits its meter."""

    def __init__(self, limiter: Limiter, store: JobStore) -> None:
        self._limiter = limiter
        self._ended = EndedJobs(limiter, store)

    def meter(self, principal: Principal) -> Meter | None:
        if principal.key is None or not principal.limits.counted:
            return None
        return Meter(principal.key, principal.limits, self._limiter, ended=self._ended)


def is_over(job_id: str, job: Job | None) -> bool:
    return born_at(job_id) < time.time() - UNBORN if job is None else job.status.terminal


def forget(step: Any) -> None:
    """A step that nobody waits for; what it misses is found when the key's limit is reached."""
    asyncio.ensure_future(step).add_done_callback(run_and_discard)


def refusal(verdict: Verdict, limits: Limits, tokens: int) -> RateLimited:
    usage = verdict.usage
    match verdict.refused:
        case "requests":
            wait = seconds_until_fits(usage.requests, limits.requests_per_minute, 1)
            told = f"Rate limit reached for requests: {limits.requests_per_minute:,} a minute."
        case "tokens":
            wait = seconds_until_fits(usage.tokens, limits.tokens_per_minute, tokens)
            left = allowance(usage.tokens, limits.tokens_per_minute or 1).remaining
            told = (
                f"Rate limit reached for tokens: {limits.tokens_per_minute:,} a minute, of which {left:,} are left; "
                f"this request needs about {tokens:,}."
            )
        case _:
            wait, told = FULL_RETRY, f"Rate limit reached for open jobs: {limits.concurrency:,} at once."
    return RateLimited(f"{told} Please try again in {duration(wait)}.", retry_after=math.ceil(wait))


def rate_limit_headers(usage: LimitUsage, limits: Limits) -> dict[str, str]:
    """As OpenAI names and writes them."""
    headers: dict[str, str] = {}
    for name, used, limit in (
        ("requests", usage.requests, limits.requests_per_minute),
        ("tokens", usage.tokens, limits.tokens_per_minute),
    ):
        if limit is not None:
            stands = allowance(used, limit)
            headers[f"x-ratelimit-limit-{name}"] = str(stands.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(stands.remaining)
            headers[f"x-ratelimit-reset-{name}"] = duration(stands.reset)
    return headers


def duration(seconds: float) -> str:
    """`1s`, `6m0s`: rounded up, so that nobody comes back too early."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
