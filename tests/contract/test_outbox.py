"""Outbox: whoever is to be told of a job's end is not forgotten, and is told by one taker at a time."""

import asyncio
import time

import pytest

from shared.job import Job
from shared.ports import Backend, Ending, Notice
from tests.contract.conftest import Maker
from tests.contract.performers import (
    A_MOMENT,
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    claimed,
    created,
    ended,
    perform,
    record_of,
    started,
)
from tests.support.wait_until import wait_until

HOLD = 30.0
URL = "https://example.com/hook"


async def due(backend: Backend, limit: int = 100, hold: float = HOLD) -> list[str]:
    return [notice.job_id for notice in await backend.outbox.take(limit, hold)]


async def taken(backend: Backend, job: Job, hold: float = HOLD) -> Notice:
    """The notice of a job that has ended: word of it goes its own way, and may take a moment."""

    async def come() -> Notice:
        notices = await backend.outbox.take(100, hold)
        assert len(notices) == 1
        return notices[0]

    notice = await wait_until(come, "the job to be due")
    assert notice.job_id == job.id
    return notice


@pytest.mark.parametrize("ending", [COMPLETED, FAILED, CANCELLED, EXPIRED], ids=lambda ending: str(ending.status))
async def test_a_job_is_due_when_it_has_ended(replicas: tuple[Backend, Backend], ending: Ending) -> None:
    one, other = replicas
    job, claim = await started(one, webhook_url=URL)
    assert await due(other) == []
    await perform(one, claim, [], ending)
    await taken(other, job)
    assert (await record_of(other, job.id)).webhook_url == URL


async def test_a_job_that_ends_in_the_queue_is_due_too(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = await created(one, webhook_url=URL)
    await one.store.cancel(job.id, CANCELLED)
    await taken(other, job)


async def test_others_are_not_here(backend: Backend) -> None:
    await ended(backend)
    assert await due(backend) == []


async def test_each_is_one_takers(replicas: tuple[Backend, Backend]) -> None:
    jobs = [(await ended(replicas[0], webhook_url=URL))[0] for _ in range(20)]
    found: list[str] = []

    async def all_taken() -> bool:
        for more in await asyncio.gather(*(due(replicas[number % 2], limit=3) for number in range(10))):
            found.extend(more)
        assert len(found) >= 20, found
        return True

    await wait_until(all_taken)
    assert sorted(found) == sorted(job.id for job in jobs)


async def test_what_a_taker_leaves_undone_is_the_next_ones(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job, _ = await ended(one, webhook_url=URL)
    await taken(one, job, hold=A_MOMENT)
    await taken(other, job)


async def test_what_is_put_back_is_due_again(backend: Backend) -> None:
    job, _ = await ended(backend, webhook_url=URL)
    await backend.outbox.put_back(await taken(backend, job), HOLD)
    assert await due(backend) == []
    job, _ = await ended(backend, webhook_url=URL)
    await backend.outbox.put_back(await taken(backend, job), A_MOMENT)
    await taken(backend, job)


async def test_what_is_forgotten_is_gone(backend: Backend) -> None:
    job, _ = await ended(backend, webhook_url=URL)
    await backend.outbox.forget(await taken(backend, job, hold=A_MOMENT))
    outlived = time.time() + 2 * A_MOMENT
    await wait_until(lambda: time.time() > outlived)
    assert await due(backend) == []


async def test_a_taker_that_is_late_settles_nothing(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job, _ = await ended(one, webhook_url=URL)
    late = await taken(one, job, hold=A_MOMENT)
    await taken(other, job, hold=A_MOMENT)
    await one.outbox.forget(late)
    await one.outbox.put_back(late, HOLD)
    await taken(one, job)


async def test_a_job_that_is_tried_again_is_told_of_again(backend: Backend) -> None:
    job, claim = await started(backend, webhook_url=URL)
    await perform(backend, claim, [], FAILED)
    first = await taken(backend, job)
    assert await backend.store.retry(job.id, time.time() + 600)
    await perform(backend, await claimed(backend, job), [])
    await wait_until(lambda: is_due_anew(backend, first), "the second ending")
    await backend.outbox.forget(first)


async def is_due_anew(backend: Backend, first: Notice) -> bool:
    return first.job_id in await due(backend)


@pytest.mark.parametrize("kind", ["embedded", "distributed"], indirect=True)
async def test_it_outlives_its_process(maker: Maker) -> None:
    async with maker() as backend:
        job, claim = await started(backend, webhook_url=URL)
        await perform(backend, claim, [])
    async with maker() as backend:
        await taken(backend, job)
