"""Finds jobs whose clients were cut off, by the digest of the request: one set of ids for each digest."""

from __future__ import annotations

import asyncio
from typing import Any

from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.connection.presence import any_subscribed
from shared.job import Job, JobStatus

OPEN = ",".join(status for status in JobStatus if not status.terminal)


def remember_sent(redis: Pipeline, job: Job, sent: str, ttl: int) -> asyncio.Future[Any]:
    return redis.step(lua_steps.index([keys.sent(job.tenant, sent)], member=job.id, score=0, ttl_ms=ttl))


async def reattach_newest(redis: Pipeline, tenant: str, sent: str) -> str | None:
    """Detaches a job without a living follower, and returns its id. The call that removes an id from the set gets the
    job, so concurrent calls get different jobs.
    """
    index = keys.sent(tenant, sent)
    for raw in await redis.command("ZRANGE", index, 0, -1):
        job_id = raw.decode()
        followers = (await redis.command("HGET", keys.job(job_id), "followers") or b"").decode()
        channels = [keys.replica(replica) for replica in followers.split()]
        if channels and await any_subscribed(redis, *channels):
            continue
        if await redis.command("ZREM", index, job_id) and await redis.step(
            lua_steps.reattach(job_id, open_statuses=OPEN, known_followers=followers)
        ):
            return job_id
    return None
