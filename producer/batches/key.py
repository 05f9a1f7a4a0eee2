"""The key that asked for a batch, as it is now: the batch uses its tokens, and without it nothing more is run."""

from __future__ import annotations

from producer.auth.keys import KeyRepository
from shared.job import Job
from shared.limits import FOR_LINES, UNLIMITED, Limits, lines_of, seconds_until_fits
from shared.ports import Limiter

LEAST_WAIT, MOST_WAIT = 0.1, 1.0
"""Seconds from one try for tokens to the next: a line that ends early gives some back."""


class BatchKey:
    """`key`: the id of a stored key, None where the batch was asked for without one."""

    def __init__(self, keys: KeyRepository, limiter: Limiter, key: str | None) -> None:
        self._keys = keys
        self._limiter = limiter
        self._key = key
        self._limits: Limits = UNLIMITED
        self.revoked = False

    async def look(self) -> None:
        """Raises BackendUnavailable."""
        if self._key is None:
            return
        found = await self._keys.with_id(self._key)
        self.revoked = found is None
        self._limits = UNLIMITED if found is None else found.limits

    @property
    def counted_as(self) -> str | None:
        """The name under which the limiter counts the batch's lines, where it does."""
        return lines_of(self._key) if self._key is not None and self._limits.tokens_per_minute else None

    async def take(self, job: Job) -> float:
        """Count a line's tokens; seconds to wait before it is tried again, 0 where they were counted."""
        limit = self._limits.tokens_per_minute
        if job.limit_key is None or not limit:
            return 0.0
        tokens = min(job.tokens, limit)
        verdict = await self._limiter.take(job.limit_key, self._limits, job.id, tokens=tokens, until=job.deadline_at)
        if verdict.refused is None:
            return 0.0
        used = verdict.usage.tokens + limit - max(limit * FOR_LINES, tokens)
        return max(LEAST_WAIT, min(MOST_WAIT, seconds_until_fits(used, limit, tokens)))
