"""Counts the usage of limited keys on Redis, for all replicas. Each call is one Lua step with the rules of
limits.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.pipeline import Pipeline
from shared.limits import BATCH_SHARE, Limits, LimitUsage, Verdict, of_lines


class RedisLimiter:
    def __init__(self, pipeline: Pipeline) -> None:
        self._redis = pipeline

    async def take(self, key: str, limits: Limits, job_id: str, *, tokens: int, until: float) -> Verdict:
        _, lines = of_lines(key)
        refused, requests, used, open_jobs = await self._redis.step(
            lua_steps.limit_take(
                key, limits, job_id=job_id, tokens=tokens, until=until, batch_share=BATCH_SHARE if lines else None
            )
        )
        return Verdict(LimitUsage(float(requests), float(used), open_jobs), refused.decode() or None)

    def charge(self, key: str, job_id: str, *, used: int | None) -> asyncio.Future[Any]:
        return self._redis.step(lua_steps.limit_charge(key, job_id=job_id, used=used))

    def refund(self, key: str, job_id: str) -> asyncio.Future[Any]:
        return self._redis.step(lua_steps.limit_charge(key, job_id=job_id, used=0, refunded=True))

    async def open_jobs(self, key: str, limit: int, *, skip: int = 0) -> Sequence[str]:
        _, open_jobs, _ = keys.of_limits(key)
        return [raw.decode() for raw in await self._redis.command("ZRANGE", open_jobs, skip, skip + limit - 1)]
