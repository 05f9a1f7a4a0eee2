"""What follows from a job's end, in steps that no caller waits for: charges, lists, the fair queue, the outbox."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from shared.aio import run_and_discard
from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.fair_queue import RedisFairQueue
from shared.backends.redis.jobs.records import milliseconds
from shared.backends.redis.limiter import RedisLimiter
from shared.backends.redis.outbox import note_ending
from shared.backends.redis.storage_quota import KeptBytes
from shared.errors import AttemptsExhausted
from shared.frames import count_frames
from shared.job import new_job_id
from shared.limits import tokens_used
from shared.ports import Ending

MEMORY_OF_DEAD = 30 * 86400.0
"""Seconds for which a dead job is listed, if its record exists as long."""


class Endings:
    def __init__(self, pipeline: Pipeline, scheduler: RedisFairQueue, kept: KeptBytes) -> None:
        self._redis = pipeline
        self._scheduler = scheduler
        self._kept = kept
        self._limiter = RedisLimiter(pipeline)

    def apply(self, job_id: str, answer: Sequence[Any], ending: Ending) -> None:
        """What follows from the answer of the step that has ended a job."""
        queue, webhook, key, moved, frames, progress = answer
        self._kept.apply_move(moved)
        if key:
            said = frames - count_frames(ending.frames)
            self.charge_limit(key.decode(), job_id, tokens_used(ending.status, ending.usage, said))
        if queue:
            self._scheduler.remove(queue.decode(), job_id, (ending.usage or {}).get("total_tokens"))
            self._list_dead(job_id, ending)
        if webhook:
            note_ending(self._redis, job_id).add_done_callback(run_and_discard)
        if progress:
            self._redis.command("UNLINK", keys.progress(job_id)).add_done_callback(run_and_discard)

    def charge_limit(self, key: str, job_id: str, used: int | None) -> None:
        """Closes the job at its key. If the step is lost, the job is closed when the key's limit is reached."""
        self._limiter.charge(key, job_id, used=used).add_done_callback(run_and_discard)

    def _list_dead(self, job_id: str, ending: Ending) -> None:
        """Adds a dead job to the list of all tenants' dead jobs, for operators."""
        if (ending.error or {}).get("code") == AttemptsExhausted.default_code:
            oldest = new_job_id(time.time() - MEMORY_OF_DEAD)
            lasts = milliseconds(MEMORY_OF_DEAD)
            step = lua_steps.index([keys.DEAD], member=job_id, score=0, ttl_ms=lasts, oldest=oldest)
            self._redis.step(step).add_done_callback(run_and_discard)
