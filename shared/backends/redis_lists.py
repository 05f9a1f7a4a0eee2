"""A tenant's jobs in order: an index of ids, which sort by age, and the records behind it."""

from __future__ import annotations

import asyncio

from shared.backends.redis import Argument, Pipeline
from shared.backends.redis_keys import job as job_key
from shared.backends.redis_records import decode_job
from shared.job import Job
from shared.ports import JobFilter

PAGE = 200
"""Records looked at per round trip at most, while a filtered list is gathered."""


async def list_jobs(
    redis: Pipeline, index: str, where: JobFilter, *, after: str | None, limit: int, oldest_first: bool
) -> list[Job]:
    """Looks at as many records as are wanted, and at more in a round trip where the filter lets few pass."""
    found: list[Job] = []
    page, cursor = min(limit, PAGE), after
    while len(found) < limit:
        ids = [raw.decode() for raw in await redis.command(*ids_in_order(index, cursor, page, oldest_first))]
        records = await asyncio.gather(*(redis.command("HGETALL", job_key(job_id)) for job_id in ids))
        found += [job for record in records if (job := decode_job(record)) is not None and matches(job, where)]
        if len(ids) < page:
            break
        page, cursor = min(2 * page, PAGE), ids[-1]
    return found[:limit]


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
