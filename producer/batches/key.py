"""The API key that created a batch: its limits charge the lines, and its revocation stops the batch."""

from __future__ import annotations

from producer.auth.keys import KeyRepository
from shared.job import Job
from shared.limits import BATCH_SHARE, UNLIMITED, Limits, lines_of, seconds_until_fits
from shared.ports import Limiter

LEAST_WAIT, MOST_WAIT = 0.1, 1.0
"""Bounds of the pause between two tries to charge tokens, in seconds: a line that ends early refunds some."""


class BatchKey:
    """`key`: id of the stored API key, None where the batch was created without one."""

    def __init__(self, keys: KeyRepository, limiter: Limiter, key: str | None) -> None:
        self._keys = keys
        self._limiter = limiter
        self._key = key
        self._limits: Limits = UNLIMITED
        self.revoked = False

    async def refresh(self) -> None:
        """Reads the key's limits and whether it is revoked. Raises BackendUnavailable."""
        if self._key is None:
            return
        found = await self._keys.with_id(self._key)
        self.revoked = found is None
        self._limits = UNLIMITED if found is None else found.limits

    @property
    def counted_as(self) -> str | None:
        """The limiter's key for the batch's lines, None without a token limit."""
        return lines_of(self._key) if self._key is not None and self._limits.tokens_per_minute else None

    async def take(self, job: Job) -> float:
        """Charges a line's tokens. Returns 0 when charged, else the seconds until the next try."""
        limit = self._limits.tokens_per_minute
        if job.limit_key is None or not limit:
            return 0.0
        tokens = min(job.tokens, limit)
        verdict = await self._limiter.take(job.limit_key, self._limits, job.id, tokens=tokens, until=job.deadline_at)
        if verdict.refused is None:
            return 0.0
        used = verdict.usage.tokens + limit - max(limit * BATCH_SHARE, tokens)
        return max(LEAST_WAIT, min(MOST_WAIT, seconds_until_fits(used, limit, tokens)))
