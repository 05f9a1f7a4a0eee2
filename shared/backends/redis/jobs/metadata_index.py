"""The index of jobs by metadata pairs on Redis: one sorted set of ids for each pair of a tenant's jobs.

A set contains every job that has the pair. It may contain others, which readers drop after they have read the record.
Two concurrent updates of a job's metadata may remove each other's entries. So an update that has removed entries reads
the record once more, and adds the job to the sets of its present metadata. The later update then sees the final record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from shared.backends.metadata_pairs import all_digests, digests
from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.jobs.records import oldest_kept, time_to_live
from shared.job import Job, born_at
from shared.ports import JobFilter

WRITTEN = 60.0
"""Seconds after which an entry without a record is removed. Entry and record are written at the same time."""


class PairIndex:
    def __init__(self, pipeline: Pipeline) -> None:
        self._redis = pipeline

    def add(self, job: Job, metadata: Mapping[str, str], ttl: int) -> Sequence[asyncio.Future[Any]]:
        """Adds a job to the sets of its pairs. `ttl`: milliseconds for which its record exists at most."""
        sets = [
            keys.pair_of(job.tenant, digest)
            for digest in all_digests(job.tenant, metadata, stored=job.stored_completion)
        ]
        if not sets:
            return []
        step = lua_steps.index(sets, member=job.id, score=0, ttl_ms=ttl, oldest=oldest_kept(job))
        return [self._redis.step(step)]

    def forget(self, job: Job) -> Sequence[asyncio.Future[Any]]:
        return self._remove(job, all_digests(job.tenant, job.metadata, stored=job.stored_completion))

    def _remove(self, job: Job, gone: Iterable[bytes]) -> Sequence[asyncio.Future[Any]]:
        return [self._redis.command("ZREM", keys.pair_of(job.tenant, digest), job.id) for digest in gone]

    @asynccontextmanager
    async def moving(
        self, job: Job, metadata: Mapping[str, str], read: Callable[[str], Awaitable[Job | None]]
    ) -> AsyncGenerator[None]:
        """Updates the index around the step that replaces the job's metadata."""
        await self._keep(job, metadata)
        yield
        before, after = (
            all_digests(job.tenant, each, stored=job.stored_completion) for each in (job.metadata, metadata)
        )
        await asyncio.gather(*self._remove(job, set(before) - set(after)))
        if (now := await read(job.id)) is not None:
            await self._keep(now, now.metadata)

    async def _keep(self, job: Job, metadata: Mapping[str, str]) -> None:
        await asyncio.gather(*self.add(job, metadata, time_to_live(job, job.deadline_at)))

    async def smallest(self, tenant: str, where: JobFilter) -> str | None:
        """Returns the smallest set that contains all jobs of the filter, or None if the filter has no pairs."""
        sets = [keys.pair_of(tenant, each) for each in digests(tenant, where.metadata, stored=where.stored)]
        if len(sets) <= 1:
            return sets[0] if sets else None
        sizes = await asyncio.gather(*(self._redis.command("ZCARD", each) for each in sets))
        return min(zip(sizes, sets, strict=True))[1]

    async def clear(self, index: str, job_ids: Sequence[str]) -> None:
        """Removes jobs without a record from a set, after a second check."""
        old = [each for each in job_ids if born_at(each) < time.time() - WRITTEN]
        there = await asyncio.gather(*(self._redis.command("EXISTS", keys.job(each)) for each in old))
        if gone := [each for each, exists in zip(old, there, strict=True) if not exists]:
            await self._redis.command("ZREM", index, *gone)
