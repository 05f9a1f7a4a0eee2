"""Idempotency keys on Redis. A key and its job are in different slots, so no single step writes both, and
the process may die between any two steps.

The first request claims the key for its job's id, and then writes the record. A later request finds that id and looks
for the record. The record may not be written yet, so the request waits a moment. It may never be written, because the
process died. Then the request writes a tombstone for the id, in one step that fails if the record exists after all; a
late write of the record is refused from then on. Then it claims the key, in one step that fails if another request was
quicker. A job that was discarded or deleted has left a tombstone, and its key is claimed at once.

So a key never stands for two jobs, each request gets an existing job or the key for its own, and it waits for a dead
process no longer than the sum of LOOKS.
"""

from __future__ import annotations

import asyncio

import orjson

from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.jobs.records import milliseconds
from shared.errors import key_reused
from shared.job import IdempotencyKey, Job

LOOKS = (0.0, 0.01, 0.03, 0.1, 0.3, 0.6)
"""Seconds between checks for a record that is not written yet. A living writer needs one round trip."""


class KeyedJobs:
    def __init__(self, pipeline: Pipeline) -> None:
        self._redis = pipeline

    async def claim(self, job: Job, key: IdempotencyKey) -> str:
        """Returns the id of the job that the key belongs to; a free key is given to `job`. Raises
        IdempotencyKeyReused.
        """
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
        """Whether the tenant has this job, or had it until its data expired. If not, a tombstone prevents it from now
        on.
        """
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
