"""JobStore, lists by metadata: a pair leads to the jobs that have it, however it came to be there, and to no others."""

import asyncio
import random
import time
from typing import Any

import pytest
from redis import Redis

from shared.job import JobStatus
from shared.ports import Backend, Ending, JobFilter
from tests.contract.performers import A_MOMENT, FAILED, created, ended
from tests.support.wait_until import wait_until


async def having(backend: Backend, stored: bool = False, **metadata: str) -> list[str]:
    jobs = await backend.store.list("tenant", JobFilter(metadata=metadata, stored=stored), after=None, limit=100)
    return [job.id for job in reversed(jobs)]


async def test_a_pair_leads_to_its_jobs(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    red = await created(one, metadata={"colour": "red", "size": "l"})
    kept, _ = await ended(one, metadata={"colour": "red", "size": "s"}, stored=True)
    await created(one, metadata={"colour": "red"}, tenant="someone else")
    await created(one, metadata={"red": "colour"})
    await created(one)
    assert await having(other, colour="red") == [red.id, kept.id]
    assert await having(other, colour="red", size="s") == [kept.id]
    assert await having(other, colour="red", stored=True) == [kept.id]
    assert await having(other, colour="red", size="m") == []
    assert await having(other, colour="re") == []


async def test_it_is_told_apart_with_what_else_is_asked_for(backend: Backend) -> None:
    waits = await created(backend, metadata={"a": "b"})
    failed, _ = await ended(backend, FAILED, metadata={"a": "b"})
    for status, job in ((JobStatus.QUEUED, waits), (JobStatus.FAILED, failed)):
        jobs = await backend.store.list("tenant", JobFilter(status, metadata={"a": "b"}), after=None, limit=9)
        assert [each.id for each in jobs] == [job.id]
    assert await backend.store.list("tenant", JobFilter(model="other", metadata={"a": "b"}), after=None, limit=9) == []


async def test_a_page_comes_after_another(backend: Backend) -> None:
    ids = [(await created(backend, metadata={"a": "b", "n": str(n)})).id for n in range(10)]
    where = JobFilter(metadata={"a": "b"})
    page = await backend.store.list("tenant", where, after=ids[7], limit=3)
    assert [job.id for job in page] == [ids[6], ids[5], ids[4]]
    page = await backend.store.list("tenant", where, after=ids[1], limit=3, oldest_first=True)
    assert [job.id for job in page] == [ids[2], ids[3], ids[4]]


async def test_what_is_a_jobs_own_is_found_too(backend: Backend) -> None:
    """Lines of a batch have a custom_id each."""
    jobs = [await created(backend, metadata={"batch_id": "b", "custom_id": f"line-{n}"}) for n in range(5)]
    assert await having(backend, custom_id="line-3") == [jobs[3].id]
    assert await having(backend, batch_id="b", custom_id="line-2") == [jobs[2].id]
    assert await having(backend, batch_id="c", custom_id="line-2") == []


async def test_other_metadata_moves_a_job(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = await created(one, metadata={"state": "new", "for": "me"}, stored=True)
    for stored in (False, True):
        assert await having(other, state="new", stored=stored) == [job.id]
    await one.store.describe(job.id, {"state": "seen", "for": "me"})
    for stored in (False, True):
        assert await having(other, state="new", stored=stored) == []
        assert await having(other, state="seen", stored=stored) == [job.id]
        assert await having(other, **{"for": "me"}, stored=stored) == [job.id]
    await one.store.describe(job.id, {})
    assert await having(other, state="seen") == []
    await one.store.describe(job.id, {"state": "new"})
    assert await having(other, state="new") == [job.id]


async def test_many_who_describe_a_job_at_once_leave_it_where_it_is(replicas: tuple[Backend, Backend]) -> None:
    dice = random.Random(5)
    for _ in range(30):
        job = await created(replicas[0], metadata={"n": "0"})
        values = [str(dice.randrange(3)) for _ in range(6)]
        await asyncio.gather(*(dice.choice(replicas).store.describe(job.id, {"n": value}) for value in values))
        now = await replicas[0].store.get(job.id)
        assert now is not None
        for value in ("0", "1", "2"):
            assert (job.id in await having(replicas[1], n=value)) == (now.metadata == {"n": value})


async def test_a_job_that_is_gone_is_in_no_list(backend: Backend) -> None:
    job = await created(backend, metadata={"a": "b"})
    await backend.store.delete(job)
    await ended(backend, metadata={"a": "b"}, retention=A_MOMENT)

    async def nothing_is_left() -> bool:
        return await having(backend, a="b") == []

    await wait_until(nothing_is_left, "the other to expire")


async def test_a_code_leads_to_its_jobs(backend: Backend) -> None:
    broken = Ending(JobStatus.FAILED, error={"message": "broken", "code": "engine_error"})
    job, _ = await ended(backend, broken)
    await ended(backend, FAILED)
    await ended(backend, broken, tenant="someone else")
    where = JobFilter(code="engine_error")
    assert [each.id for each in await backend.store.list("tenant", where, after=None, limit=9)] == [job.id]
    assert await backend.store.retry(job.id, time.time() + 60)
    assert await backend.store.list("tenant", where, after=None, limit=9) == []


@pytest.mark.parametrize("kind", ["distributed"], indirect=True)
async def test_a_list_reads_no_records_but_those_it_shows(backend: Backend, redis_url: str) -> None:
    """Redis counts the calls. Of two pairs it is the rarer one that is followed."""
    for n in range(50):
        await created(backend, metadata={"common": "x", "rare": str(n)})
    await created(backend)
    with Redis.from_url(redis_url) as client:
        client.config_resetstat()
        assert len(await having(backend, common="x", rare="7")) == 1
        assert client.info("commandstats")["cmdstat_hgetall"]["calls"] == 1


@pytest.mark.parametrize("kind", ["distributed"], indirect=True)
async def test_what_has_expired_is_passed_over_once(backend: Backend, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        job = await created(backend, metadata={"a": "b"})
        indexes: list[Any] = [*client.scan_iter("*:pair:*")]
        (index,) = indexes
        client.zadd(index, {"chatcmpl-000000000001" + 20 * "0": 0})
        assert await having(backend, a="b") == [job.id]
        assert client.zcard(index) == 1
