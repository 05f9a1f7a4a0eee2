"""However a job ends, the key whose limits count it has its slot back: by the store, with nobody looking on."""

import time
from collections.abc import Awaitable, Callable

import pytest

from shared.job import Job
from shared.limits import Limits
from shared.ports import Backend
from tests.contract.performers import (
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    claimed,
    created,
    some_frames,
    started,
    write,
)
from tests.support.wait_until import wait_until

KEY = "key_1"
LIMITS = Limits(concurrency=10, tokens_per_minute=6000)
ESTIMATE = 5900
"""Tokens that take almost a minute to flow out."""


async def counted(backend: Backend, job: Job) -> None:
    verdict = await backend.limiter.take(KEY, LIMITS, job.id, tokens=ESTIMATE, until=time.time() + 600)
    assert verdict.refused is None


async def begun(backend: Backend) -> tuple[Job, int]:
    job, claim = await started(backend, limit_key=KEY)
    await counted(backend, job)
    return job, claim.attempt


async def waiting(backend: Backend) -> Job:
    job = await created(backend, limit_key=KEY, made_with="key_2")
    await counted(backend, job)
    return job


async def completed(backend: Backend) -> None:
    job, attempt = await begun(backend)
    await backend.store.finish(job.id, attempt, 0, COMPLETED)


async def failed(backend: Backend) -> None:
    job, attempt = await begun(backend)
    await backend.store.finish(job.id, attempt, 0, FAILED)


async def expired_in_its_queue(backend: Backend) -> None:
    assert await backend.store.end_unclaimed((await waiting(backend)).id, EXPIRED)


async def cancelled_in_its_queue(backend: Backend) -> None:
    await backend.store.cancel((await waiting(backend)).id, CANCELLED)


async def cancelled_when_its_worker_is_dead(backend: Backend) -> None:
    job, _ = await begun(backend)
    await backend.store.cancel(job.id, CANCELLED)


async def deleted_while_it_waits(backend: Backend) -> None:
    await backend.store.delete(await waiting(backend))


async def deleted_while_it_runs(backend: Backend) -> None:
    job, _ = await begun(backend)
    await backend.store.delete(job)


async def taken_over_and_completed(backend: Backend) -> None:
    job, _ = await begun(backend)
    claim = await claimed(backend, job, "worker-2", lost="worker-1")
    await backend.store.finish(job.id, claim.attempt, 0, COMPLETED)


WAYS = (
    completed,
    failed,
    expired_in_its_queue,
    cancelled_in_its_queue,
    cancelled_when_its_worker_is_dead,
    deleted_while_it_waits,
    deleted_while_it_runs,
    taken_over_and_completed,
)


@pytest.mark.parametrize("way", WAYS)
async def test_a_job_that_is_over_is_open_no_more(
    replicas: tuple[Backend, Backend], way: Callable[[Backend], Awaitable[None]]
) -> None:
    one, other = replicas
    await way(one)

    async def nothing_is_open() -> bool:
        return await other.limiter.open_jobs(KEY, 10) == []

    await wait_until(nothing_is_open, "the key's slot")


async def tokens_of(backend: Backend) -> float:
    verdict = await backend.limiter.take(KEY, LIMITS, "job-more", tokens=0, until=time.time() + 600)
    return verdict.usage.tokens


async def test_what_it_used_takes_the_place_of_its_estimate(backend: Backend) -> None:
    await completed(backend)
    await settled(backend)
    await failed(backend)
    await settled(backend)


async def settled(backend: Backend) -> None:
    """The estimate is gone, sooner than it would flow out."""

    async def is_gone() -> bool:
        return await tokens_of(backend) < 1000

    await wait_until(is_gone, "the estimate to be corrected", within=20)


@pytest.mark.parametrize("kind", ["distributed", "redis-cluster"])
async def test_an_ending_that_is_repeated_settles_what_the_first_could_not(backend: Backend) -> None:
    """A worker that dies, or hears no answer, between the ending and its settling ends the job once more. Embedded,
    both are one step.
    """
    job, attempt = await begun(backend)
    await backend.store.finish(job.id, attempt, 0, COMPLETED)
    await settled(backend)
    await counted(backend, job)
    await backend.store.finish(job.id, attempt, 0, COMPLETED)
    await settled(backend)


async def test_a_record_that_is_written_again_knows_its_key(backend: Backend) -> None:
    job = await waiting(backend)
    record = await backend.store.get(job.id)
    assert record is not None and (record.limit_key, record.made_with) == (KEY, "key_2")


@pytest.mark.parametrize("end", ["finish", "end_unclaimed"])
async def test_a_stream_that_breaks_off_has_used_what_it_said(backend: Backend, end: str) -> None:
    """A client that cancels, or an answer that fails, late in a stream has had its tokens."""
    job, claim = await started(backend, limit_key=KEY)
    await counted(backend, job)
    size = await write(backend, claim, [b"".join(some_frames(900))])
    if end == "finish":
        await backend.store.finish(job.id, claim.attempt, size, FAILED)
    else:
        assert await backend.store.end_unclaimed(job.id, CANCELLED, owner="worker-1")
    await settled(backend)
    assert 500 < await tokens_of(backend) <= 900
