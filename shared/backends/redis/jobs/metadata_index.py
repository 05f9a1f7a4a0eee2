"""Jobs by the pairs of their metadata: a sorted set of ids for each pair that any job of a tenant has.

A set may hold jobs that have the pair no more, for whoever reads it looks at the records; but one that has it is there.
Two that describe a job at once may each take away what the other has put there. So whoever has taken something away
looks at the record once more, and puts the job where that says: the last of them sees what is there in the end.
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
"""Seconds after which a job that is in a set and has no record is none: its record was to come with the set."""


class PairIndex:
    def __init__(self, pipeline: Pipeline) -> None:
        self._redis = pipeline

    def add(self, job: Job, metadata: Mapping[str, str], ttl: int) -> Sequence[asyncio.Future[Any]]:
        """Nothing for a job without. `ttl`: milliseconds for which its record lives at most."""
        sets = [keys.pair_of(job.tenant, digest) for digest in all_digests(job.tenant, metadata, stored=job.stored)]
        if not sets:
            return []
        step = lua_steps.index(sets, member=job.id, score=0, ttl_ms=ttl, oldest=oldest_kept(job))
        return [self._redis.step(step)]

    def forget(self, job: Job) -> Sequence[asyncio.Future[Any]]:
        return self._remove(job, all_digests(job.tenant, job.metadata, stored=job.stored))

    def _remove(self, job: Job, gone: Iterable[bytes]) -> Sequence[asyncio.Future[Any]]:
        return [self._redis.command("ZREM", keys.pair_of(job.tenant, digest), job.id) for digest in gone]

    @asynccontextmanager
    async def moving(
        self, job: Job, metadata: Mapping[str, str], read: Callable[[str], Awaitable[Job | None]]
    ) -> AsyncGenerator[None]:
        """Around the step that gives the job other metadata."""
        await self._keep(job, metadata)
        yield
        before, after = (all_digests(job.tenant, each, stored=job.stored) for each in (job.metadata, metadata))
        await asyncio.gather(*self._remove(job, set(before) - set(after)))
        if (now := await read(job.id)) is not None:
            await self._keep(now, now.metadata)

    async def _keep(self, job: Job, metadata: Mapping[str, str]) -> None:
        await asyncio.gather(*self.add(job, metadata, time_to_live(job, job.deadline_at)))

    async def smallest(self, tenant: str, where: JobFilter) -> str | None:
        """The set that holds least of those that the filter's jobs are all in; None where there is no such set."""
        sets = [keys.pair_of(tenant, each) for each in digests(tenant, where.metadata, stored=where.stored)]
        if len(sets) <= 1:
            return sets[0] if sets else None
        sizes = await asyncio.gather(*(self._redis.command("ZCARD", each) for each in sets))
        return min(zip(sizes, sets, strict=True))[1]

    async def clear(self, index: str, job_ids: Sequence[str]) -> None:
        """Jobs that had no record just now, and have none at a second look."""
        old = [each for each in job_ids if born_at(each) < time.time() - WRITTEN]
        there = await asyncio.gather(*(self._redis.command("EXISTS", keys.job(each)) for each in old))
        if gone := [each for each, exists in zip(old, there, strict=True) if not exists]:
            await self._redis.command("ZREM", index, *gone)
