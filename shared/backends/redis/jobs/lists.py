"""Lists a tenant's jobs: reads ids, which sort by age, from an index, and then the records.

A filter uses the index with the fewest unwanted jobs. There is an index for each metadata pair (metadata_index.py), for
each model, and for each status of jobs that ended without completing. Open jobs are read from the fair queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from shared.backends.redis import keys
from shared.backends.redis.connection.gathering import Argument
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.jobs.records import decode_job
from shared.job import TERMINAL, Job, JobStatus, QueueName, Tier
from shared.ports import JobFilter

PAGE = 200
"""Most records that are read in one round trip for a filtered list."""

UNWELL = TERMINAL - {JobStatus.COMPLETED}
"""The final statuses that have an index."""

NextIds = Callable[[str | None, int], Awaitable[Sequence[str]]]
"""(the id to continue behind, how many) → the next ids in order."""


async def list_jobs(
    redis: Pipeline,
    next_ids: NextIds,
    where: JobFilter,
    *,
    after: str | None,
    limit: int,
    forget: Callable[[Sequence[str]], Awaitable[None]] | None = None,
) -> list[Job]:
    """Reads pages of records until `limit` jobs match. The pages grow while few records match. `forget` is called with
    ids that have no record.
    """
    found: list[Job] = []
    page, cursor = min(limit, PAGE), after
    while len(found) < limit:
        ids = await next_ids(cursor, page)
        records = await asyncio.gather(*(redis.command("HGETALL", keys.job(job_id)) for job_id in ids))
        jobs = [decode_job(record) for record in records]
        found += [job for job in jobs if job is not None and matches(job, where)]
        if forget is not None and None in jobs:
            await forget([job_id for job_id, job in zip(ids, jobs, strict=True) if job is None])
        if len(ids) < page:
            break
        page, cursor = min(2 * page, PAGE), ids[-1]
    return found[:limit]


async def source_of(redis: Pipeline, tenant: str, where: JobFilter, oldest_first: bool) -> NextIds:
    """Returns the source of ids that contains all jobs of the filter."""
    if where.status is not None and not where.status.terminal and not where.stored:
        return among_ids(await open_ids(redis, tenant, where.model), oldest_first)
    return among_indexes(redis, indexes_for(tenant, where), oldest_first)


def indexes_for(tenant: str, where: JobFilter) -> Sequence[str]:
    if where.stored:
        return (keys.stored_of(tenant),)
    if where.status is not None and where.status in UNWELL:
        return (keys.ended_of(tenant, where.status),)
    if where.code is not None and where.status is None:
        return [keys.ended_of(tenant, status) for status in UNWELL]
    return (keys.model_of(tenant, where.model) if where.model else keys.jobs_of(tenant),)


def among_indexes(redis: Pipeline, indexes: Sequence[str], oldest_first: bool) -> NextIds:
    async def next_ids(after: str | None, count: int) -> Sequence[str]:
        steps = (redis.command(*ids_in_order(index, after, count, oldest_first=oldest_first)) for index in indexes)
        ids = {raw.decode() for page in await asyncio.gather(*steps) for raw in page}
        return sorted(ids, reverse=not oldest_first)[:count]

    return next_ids


def among_ids(ids: Sequence[str], oldest_first: bool) -> NextIds:
    ordered = sorted(ids, reverse=not oldest_first)

    async def next_ids(after: str | None, count: int) -> Sequence[str]:
        behind = ordered if after is None else [id for id in ordered if (id > after) is oldest_first and id != after]
        return behind[:count]

    return next_ids


async def open_ids(redis: Pipeline, tenant: str, model: str | None) -> Sequence[str]:
    """Returns the ids of the tenant's open jobs, from the fair queues."""
    if model is None:
        queues = [raw.decode() for raw in await redis.command("ZRANGE", keys.QUEUES, 0, -1)]
    else:
        queues = [str(QueueName(model, tier)) for tier in Tier]
    found = await asyncio.gather(*(redis.command("HGETALL", f"{keys.fair_queue(queue)}:jobs") for queue in queues))
    return [id.decode() for jobs in found for id, entry in pairs(jobs) if entry.split(b" ", 4)[4] == tenant.encode()]


def pairs(raw: Any) -> list[tuple[bytes, bytes]]:
    """Returns the items of HGETALL's answer, which is a dict or a flat list."""
    if isinstance(raw, dict):
        return list(cast(dict[bytes, bytes], raw).items())
    return list(zip(raw[::2], raw[1::2], strict=True))


def ids_in_order(index: str, after: str | None, count: int, oldest_first: bool) -> tuple[Argument, ...]:
    if oldest_first:
        return "ZRANGE", index, f"({after}" if after else "-", "+", "BYLEX", "LIMIT", 0, count
    return "ZRANGE", index, f"({after}" if after else "+", "-", "BYLEX", "REV", "LIMIT", 0, count


def matches(job: Job, where: JobFilter) -> bool:
    return (
        where.status in (None, job.status)
        and where.model in (None, job.model)
        and where.code in (None, (job.error or {}).get("code"))
        and where.metadata.items() <= job.metadata.items()
        and (job.stored_completion or not where.stored)
    )
