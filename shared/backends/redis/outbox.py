"""The outbox on Redis: one sorted set of job ids, by the time at which they are due."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.jobs.records import milliseconds
from shared.job import Job
from shared.ports import Notice

UNDELIVERED = 2 * 86_400.0
"""Seconds for which the set is kept after the last of its jobs has expired."""

LOOK_AFTER = 60.0
"""Seconds after which a job is due even if no end was noted."""


class RedisOutbox:
    def __init__(self, pipeline: Pipeline) -> None:
        self._redis = pipeline

    async def take(self, limit: int, hold: float) -> Sequence[Notice]:
        held, ids = await self._redis.step(lua_steps.outbox_take(limit=limit, hold_ms=milliseconds(hold)))
        return [Notice(raw.decode(), held / 1000) for raw in ids]

    async def put_back(self, notice: Notice, after: float) -> None:
        await self._put_back(notice, milliseconds(after))

    async def forget(self, notice: Notice) -> None:
        await self._put_back(notice, None)

    async def _put_back(self, notice: Notice, due_in_ms: int | None) -> None:
        held = round(notice.held_until * 1000)
        step = lua_steps.outbox_put_back(job_id=notice.job_id, held_until_ms=held, due_in_ms=due_in_ms)
        await self._redis.step(step)


def await_ending(redis: Pipeline, job: Job, ttl: int) -> asyncio.Future[Any]:
    """Adds the job. `ttl`: milliseconds for which the job's own keys exist at most."""
    life = ttl + milliseconds(UNDELIVERED)
    return redis.step(lua_steps.outbox_add(job_id=job.id, due_in_ms=milliseconds(LOOK_AFTER), ttl_ms=life))


def note_ending(redis: Pipeline, job_id: str) -> asyncio.Future[Any]:
    """Makes an ended job due. If this is lost, it is due LOOK_AFTER its creation."""
    return redis.command("ZADD", keys.OUTBOX, "XX", 0, job_id)
