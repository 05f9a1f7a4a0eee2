"""A tenant's jobs in order: indexes of ids, which sort by age, and the records behind them.

A filter is served from the index that holds least beside what it asks for: each pair of metadata has one
(redis_pairs.py), jobs that did not end well have one for each
ending, each model has one, and jobs that are not over are in the lines of their queues anyway.
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
"""Records looked at per round trip at most, while a filtered list is gathered."""

UNWELL = TERMINAL - {JobStatus.COMPLETED}
"""The endings that have lists of their own."""

NextIds = Callable[[str | None, int], Awaitable[Sequence[str]]]
"""(the id behind which to go on, how many) → the next ids in order."""


async def list_jobs(
    redis: Pipeline,
    next_ids: NextIds,
    where: JobFilter,
    *,
    after: str | None,
    limit: int,
    forget: Callable[[Sequence[str]], Awaitable[None]] | None = None,
) -> list[Job]:
    """Looks at as many records as are wanted, and at more in a round trip where the filter lets few pass. `forget` is
    told of ids without a record.
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
    """What the filter's jobs are among."""
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
    """The tenant's jobs that wait or run, from the lines of the queues that have had any."""
    if model is None:
        queues = [raw.decode() for raw in await redis.command("ZRANGE", keys.QUEUES, 0, -1)]
    else:
        queues = [str(QueueName(model, tier)) for tier in Tier]
    found = await asyncio.gather(*(redis.command("HGETALL", f"{keys.fair_queue(queue)}:jobs") for queue in queues))
    return [id.decode() for jobs in found for id, entry in pairs(jobs) if entry.split(b" ", 2)[2] == tenant.encode()]


def pairs(raw: Any) -> list[tuple[bytes, bytes]]:
    """HGETALL's answer, whichever shape it has."""
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
        and (job.stored or not where.stored)
    )
