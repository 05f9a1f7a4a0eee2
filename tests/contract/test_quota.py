"""What a tenant keeps in the store: counted by every step that writes, refused beyond a limit, and mended by time."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import redis

from shared import quota
from shared.backends.distributed import open_distributed
from shared.backends.embedded.backend import open_embedded
from shared.backends.embedded.database import purge
from shared.backends.redis import keys
from shared.errors import StorageQuotaExceeded
from shared.job import Job, JobStatus
from shared.ports import AttemptFenced, Backend, Ending
from tests.contract.conftest import Maker
from tests.contract.performers import (
    COMPLETED,
    FAILED,
    PATIENCE,
    claimed,
    created,
    new_job,
    perform,
    some_frames,
    write,
)
from tests.support.wait_until import wait_until

LIMIT = 1_000_000
BIG = b"x" * 400_000
"""Two fit, three do not."""


@pytest.fixture
async def small(maker: Maker) -> AsyncGenerator[Backend]:
    async with maker(tenant_limit=LIMIT) as backend:
        yield backend


async def make(backend: Backend, body: bytes = BIG, **wishes: object) -> Job:
    job = new_job(**wishes)  # pyright: ignore[reportArgumentType]
    await backend.store.create(job, body=body)
    return job


async def fits(backend: Backend, size: int) -> bool:
    """Whether a request of that size is taken; nothing of it stays."""
    try:
        job = await make(backend, b"x" * size)
    except StorageQuotaExceeded:
        return False
    await backend.store.discard(job)
    return True


async def comes_to_fit(backend: Backend, size: int) -> None:
    """In a cluster the count is told a moment later."""
    await wait_until(lambda: fits(backend, size), f"room for {size} bytes", within=PATIENCE)


async def test_requests_are_refused_beyond_the_limit_and_leave_no_trace(small: Backend) -> None:
    await make(small)
    await make(small)
    refused = new_job()
    with pytest.raises(StorageQuotaExceeded, match=r"1,000,000 \(tenant_store_limit\)") as error:
        await small.store.create(refused, body=BIG)
    assert error.value.retry_after
    assert await small.store.get(refused.id) is None
    assert await small.store.body(refused.id) is None
    assert (await small.scheduler.backlog(refused.queue, refused.tenant)).jobs == 2
    assert not await small.store.knew(refused.tenant, refused.id)
    await make(small, tenant="another")


async def test_small_requests_are_refused_as_well(small: Backend) -> None:
    made = 0
    with pytest.raises(StorageQuotaExceeded):
        while made < 100:
            await make(small, b"x" * 1000)
            made += 1
    assert LIMIT // (quota.LOG_ROOM + 5000) < made < LIMIT // quota.LOG_ROOM
    assert (await small.scheduler.backlog(new_job().queue, "tenant")).jobs == made


async def test_of_many_at_once_as_many_are_taken_as_there_is_room_for(small: Backend) -> None:
    made = await asyncio.gather(*(make(small) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(each, Job) for each in made) == 2


async def test_a_repeated_create_is_counted_once(small: Backend) -> None:
    job = await make(small)
    for _ in range(3):
        await small.store.create(job, body=BIG)
    assert await fits(small, 400_000)


async def test_what_is_discarded_deleted_or_over_is_not_counted(small: Backend) -> None:
    for may_come in (False, True):
        job = await make(small)
        await small.store.discard(job, may_come=may_come)
        await comes_to_fit(small, 900_000)
    job = await make(small)
    await small.store.delete(job)
    await comes_to_fit(small, 900_000)
    job = await make(small)
    await perform(small, await claimed(small, job), some_frames(2))
    await comes_to_fit(small, 900_000)


async def test_logs_and_results_are_counted_once_they_are_there(small: Backend) -> None:
    job = await created(small)
    claim = await claimed(small, job)
    size = await write(small, claim, [b"y" * 300_000])
    await small.store.finish(job.id, claim.attempt, size, Ending(JobStatus.COMPLETED, b"", b"z" * 300_000))
    await wait_until(lambda: refuses(small, 400_000), "the answer to be counted")
    assert await fits(small, 300_000)


async def refuses(backend: Backend, size: int) -> bool:
    return not await fits(backend, size)


async def test_a_log_takes_room_before_it_grows(small: Backend) -> None:
    job = await created(small)
    claim = await claimed(small, job)
    for _ in range(2):
        await small.log.reserve(job.id, claim.attempt, 600_000)
    assert not await fits(small, 400_000)
    with pytest.raises(StorageQuotaExceeded):
        await small.log.reserve(job.id, claim.attempt, 1_200_000)
    await small.log.reserve(job.id, claim.attempt, 800_000)
    await perform(small, claim, some_frames(2))
    await comes_to_fit(small, 900_000)


async def test_only_the_running_attempt_takes_room(small: Backend) -> None:
    job = await created(small)
    claim = await claimed(small, job)
    with pytest.raises(AttemptFenced):
        await small.log.reserve(job.id, claim.attempt + 1, 100_000)
    await perform(small, claim, some_frames(1))
    with pytest.raises(AttemptFenced):
        await small.log.reserve(job.id, claim.attempt, 100_000)


async def test_a_failed_job_keeps_its_request_and_one_that_is_tried_again_keeps_it_too(small: Backend) -> None:
    job = await make(small)
    await perform(small, await claimed(small, job), some_frames(1), FAILED)
    assert not await fits(small, 700_000)
    assert await small.store.retry(job.id, job.deadline_at)
    assert not await fits(small, 700_000)
    await perform(small, await claimed(small, job), some_frames(1), COMPLETED)
    await comes_to_fit(small, 900_000)


async def test_what_has_expired_is_not_counted_in_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "PAUSE", 0.05)
    async with open_embedded(None, tenant_limit=LIMIT) as backend:
        job = await make(backend, retention=0.05)
        await backend.store.end_unclaimed(job.id, FAILED)
        await comes_to_fit(backend, 900_000)


async def test_what_has_expired_is_not_counted_in_redis_though_nobody_says_so(amqp_url: str, redis_url: str) -> None:
    account = keys.kept_by("tenant")
    async with open_distributed(amqp_url, redis_url, tenant_limit=LIMIT) as backend:
        await make(backend)
        await make(backend)
        assert not await fits(backend, 400_000)
        with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            fields: Any = client.hgetall(account)
            (bucket,) = (name for name in fields if name.isdigit())
            client.hset(account, mapping={"1": fields[bucket], "first": "1"})
            client.hdel(account, bucket)
        assert await fits(backend, 900_000)


async def test_a_count_that_redis_has_lost_is_true_again_with_new_jobs(amqp_url: str, redis_url: str) -> None:
    async with open_distributed(amqp_url, redis_url, tenant_limit=LIMIT) as backend:
        lost = await make(backend)
        with redis.Redis.from_url(redis_url) as client:
            client.delete(keys.kept_by("tenant"))
        await backend.store.delete(lost)
        await make(backend)
        await make(backend)
        assert not await fits(backend, 400_000)


async def test_without_a_limit_nothing_is_refused(maker: Maker) -> None:
    async with maker(tenant_limit=0) as backend:
        for _ in range(5):
            await make(backend)
