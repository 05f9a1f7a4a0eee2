"""JobStore.reattach: a job whose client was cut off, for the client that sends its request again."""

import asyncio

import pytest

from shared.job import Job
from shared.ports import Backend
from tests.contract.conftest import Maker
from tests.contract.performers import CANCELLED, a_worker, claimed, new_job, perform, publish, record_of
from tests.support.wait_until import wait_until

SENT = "digest"


async def left_alone(backend: Backend, **wishes: object) -> Job:
    """A job that nobody follows."""
    job = new_job(**wishes)
    await backend.store.create(job, body=b"{}", sent=SENT)
    return job


async def test_a_job_that_was_left_alone_is_taken_up_once(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = await left_alone(one)
    assert not (await record_of(one, job.id)).detached
    assert await other.store.reattach("tenant", SENT) == job.id
    assert (await record_of(one, job.id)).detached
    assert await one.store.reattach("tenant", SENT) is None


async def test_each_gets_its_own(replicas: tuple[Backend, Backend]) -> None:
    """As many as there are: the others' requests are to be run, and nobody gets the answer of a neighbour."""
    jobs = [await left_alone(replicas[0]) for _ in range(3)]
    taken = await asyncio.gather(*(replicas[number % 2].store.reattach("tenant", SENT) for number in range(8)))
    found = [job_id for job_id in taken if job_id is not None]
    assert len(found) == len(set(found)) >= 1
    assert set(found) <= {job.id for job in jobs}
    rest = [await replicas[0].store.reattach("tenant", SENT) for _ in range(4 - len(found))]
    assert {*found, *rest} == {*(job.id for job in jobs), None}


async def test_a_job_with_a_client_is_its_clients(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = new_job()
    async with one.log.follow(job.id, created_here=True):
        await one.store.create(job, body=b"{}", followed=True, sent=SENT)
        assert await other.store.reattach("tenant", SENT) is None
    assert await wait_until(lambda: other.store.reattach("tenant", SENT)) == job.id


async def test_only_what_was_sent_by_this_tenant(backend: Backend) -> None:
    await left_alone(backend)
    unsent = new_job()
    await backend.store.create(unsent, body=b"{}")
    assert await backend.store.reattach("tenant", "another digest") is None
    assert await backend.store.reattach("someone else", SENT) is None


async def test_a_job_that_is_over_has_its_answer(backend: Backend) -> None:
    job = await left_alone(backend)
    await perform(backend, await claimed(backend, job), [])
    assert await backend.store.reattach("tenant", SENT) is None


async def test_a_job_that_is_being_cancelled_is_not_saved(backend: Backend) -> None:
    async with backend.registry.join(a_worker("worker-1")):
        job = await left_alone(backend)
        await claimed(backend, job, "worker-1")
        await backend.store.cancel(job.id, CANCELLED)
        assert await backend.store.reattach("tenant", SENT) is None


@pytest.mark.parametrize("kind", ["embedded", "distributed"], indirect=True)
async def test_the_clients_of_a_dead_process_have_left_theirs(maker: Maker) -> None:
    async with maker() as dying:
        job = new_job()
        await dying.store.create(job, body=b"{}", followed=True, sent=SENT)
        await publish(dying, job)
    async with maker() as living:
        assert await wait_until(lambda: living.store.reattach("tenant", SENT)) == job.id
