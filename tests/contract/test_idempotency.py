"""JobStore.create with an idempotency key: one job a key, however many ask at once and whoever dies."""

import asyncio
import time

import pytest

from shared.backends.redis.jobs.store import RedisStore
from shared.errors import IdempotencyKeyReused
from shared.job import IdempotencyKey, Job
from shared.ports import Backend, JobFilter, NotClaimed
from tests.contract.performers import A_MOMENT, LEASE, ended, new_job, perform, record_of, started
from tests.support.wait_until import wait_until

KEY = IdempotencyKey("name", "fingerprint")
OTHER_REQUEST = IdempotencyKey("name", "another fingerprint")


def keyed_job(key: IdempotencyKey = KEY, **wishes: object) -> Job:
    return new_job(idempotency_key=key, detached=True, **wishes)


async def create(backend: Backend, job: Job) -> str:
    return await backend.store.create(job, body=b"{}")


async def ids_of(backend: Backend) -> list[str]:
    return [job.id for job in await backend.store.list("tenant", JobFilter(), after=None, limit=200)]


async def test_a_key_stands_for_the_job_it_came_with_first(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job, again = keyed_job(), keyed_job()
    assert await create(one, job) == job.id
    assert await create(other, again) == job.id
    assert await create(one, job) == job.id
    assert await other.store.get(job.id) == job
    assert await other.store.get(again.id) is None
    assert await ids_of(other) == [job.id]


async def test_it_still_does_when_the_job_is_over(backend: Backend) -> None:
    job, claim = await started(backend, idempotency_key=KEY)
    await perform(backend, claim, [])
    assert await create(backend, keyed_job()) == job.id


async def test_another_request_under_the_key_is_refused(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = keyed_job()
    await create(one, job)
    with pytest.raises(IdempotencyKeyReused):
        await create(other, keyed_job(OTHER_REQUEST))
    assert await ids_of(other) == [job.id]


async def test_keys_are_their_tenants_own(backend: Backend) -> None:
    mine, theirs = keyed_job(), keyed_job(OTHER_REQUEST, tenant="someone else")
    assert await create(backend, mine) == mine.id
    assert await create(backend, theirs) == theirs.id


async def test_a_hundred_at_once_make_one_job(replicas: tuple[Backend, Backend]) -> None:
    created = await asyncio.gather(*(create(replicas[number % 2], keyed_job()) for number in range(100)))
    (only,) = set(created)
    assert await ids_of(replicas[0]) == [only]
    assert (await record_of(replicas[1], only)).id == only


@pytest.mark.parametrize("gone", ["discarded", "discarded, may come", "deleted"])
@pytest.mark.parametrize("key", [KEY, OTHER_REQUEST])
async def test_a_job_that_is_taken_back_frees_its_key(
    replicas: tuple[Backend, Backend], gone: str, key: IdempotencyKey
) -> None:
    one, other = replicas
    job, again = keyed_job(), keyed_job(key)
    await create(one, job)
    if gone == "deleted":
        await one.store.delete(job)
    else:
        await one.store.discard(job, may_come=gone.endswith("may come"))
    assert await create(other, again) == again.id
    assert await ids_of(one) == [again.id]


async def test_a_key_outlives_its_jobs_data(backend: Backend) -> None:
    """Whoever asks again hears that the answer has expired; it is not made a second time."""
    job, _ = await ended(backend, idempotency_key=KEY, retention=A_MOMENT)
    await wait_until(lambda: is_gone(backend, job.id))
    assert await create(backend, keyed_job()) == job.id
    assert await backend.store.knew("tenant", job.id)


async def is_gone(backend: Backend, job_id: str) -> bool:
    return await backend.store.get(job_id) is None


async def test_a_key_is_forgotten_in_time(backend: Backend) -> None:
    short = IdempotencyKey("name", "fingerprint", kept=A_MOMENT)
    job, later = keyed_job(short), keyed_job(OTHER_REQUEST)
    await create(backend, job)
    forgotten = time.time() + 2 * A_MOMENT
    await wait_until(lambda: time.time() > forgotten)
    assert await create(backend, later) == later.id


@pytest.mark.parametrize("kind", ["distributed"], indirect=True)
async def test_a_restored_job_has_its_key_again(backend: Backend) -> None:
    job = keyed_job()
    assert await backend.store.restore(job, body=b"{}")
    assert await create(backend, keyed_job()) == job.id


# ── deaths between the two steps, which only Redis has ──


@pytest.fixture
async def dead(backend: Backend) -> Job:
    """The job of a process that took the key and died before it wrote the record."""
    job = keyed_job()
    assert isinstance(backend.store, RedisStore)
    assert await backend.store._keyed.claim(job, KEY) == job.id
    return job


@pytest.mark.parametrize("kind", ["distributed"], indirect=True)
async def test_the_dead_hold_no_key(backend: Backend, dead: Job) -> None:
    created = await asyncio.gather(*(create(backend, keyed_job()) for _ in range(10)))
    (only,) = set(created)
    assert only != dead.id
    assert await ids_of(backend) == [only]


@pytest.mark.parametrize("kind", ["distributed"], indirect=True)
async def test_who_was_taken_for_dead_comes_back_to_the_same_job(backend: Backend, dead: Job) -> None:
    again = keyed_job()
    assert await create(backend, again) == again.id
    assert await create(backend, dead) == again.id
    assert await backend.store.claim(dead.id, "worker-1", LEASE) == NotClaimed(None)
    assert await ids_of(backend) == [again.id]
    assert not await backend.store.knew("tenant", dead.id)
