"""Idempotency keys on Redis. What a key stands for and the job itself are in different slots, so no one step writes
both; and the process that takes the steps may die between any two of them.

Whoever comes first takes the key for its job's id, and writes the record after that. Whoever comes later finds that id
and looks for the record. It may not be there yet: it is waited for, a moment. It may never come: a process died. Then
the id is barred first, in one step that fails where the record has come after all; a late write of it is refused from
then on. Then the key is taken over, in one step that fails where somebody else was quicker. A job that was discarded or
deleted has left its id barred, and its key is taken over at once.

So a key never stands for two jobs, whoever asks gets a job that is there or the key for its own, and nobody waits for
the dead longer than LOOKS.
"""

from __future__ import annotations

import asyncio

import orjson

from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.driver import Pipeline
from shared.backends.redis.jobs.records import milliseconds
from shared.errors import key_reused
from shared.job import IdempotencyKey, Job

LOOKS = (0.0, 0.01, 0.03, 0.1, 0.3, 0.6)
"""Seconds between looks for a record that is to come: it takes its writer one round trip, if it lives."""


class KeyedJobs:
    def __init__(self, pipeline: Pipeline) -> None:
        self._redis = pipeline

    async def claim(self, job: Job, key: IdempotencyKey) -> str:
        """The id of the job that the key stands for: that of `job`, if it was free. Raises IdempotencyKeyReused."""
        name = keys.idempotency_key(job.tenant, key.name)
        own, ttl = orjson.dumps([job.id, key.fingerprint]), milliseconds(key.kept)
        held: bytes = await self._redis.step(lua_steps.idempotency_key_claim(name, value=own, ttl_ms=ttl))
        while held != own:
            holder, fingerprint = orjson.loads(held)
            if await self._is_there(job.tenant, holder, ttl):
                if fingerprint != key.fingerprint:
                    raise key_reused()
                return holder
            held = await self._redis.step(
                lua_steps.idempotency_key_claim(name, value=own, ttl_ms=ttl, replaceable=held)
            )
        return job.id

    async def _is_there(self, tenant: str, job_id: str, ttl: int) -> bool:
        """Whether the tenant has this job, or had it until its data expired. If not, it never will."""
        for delay in LOOKS:
            await asyncio.sleep(delay)
            spec, taken, known = await asyncio.gather(
                self._redis.command("HEXISTS", keys.job(job_id), "spec"),
                self._redis.command("EXISTS", keys.job(job_id)),
                self._redis.command("ZSCORE", keys.jobs_of(tenant), job_id),
            )
            if spec or taken or known is not None:
                return bool(spec or not taken)
        return not await self._redis.step(lua_steps.tombstone(job_id, ttl_ms=ttl))
