"""JobStore, the half that is looked at: records, lists, positions, expiry. And `check`."""

import time

import pytest

from shared.job import Job, JobStatus, QueueName, Tier, new_job_id
from shared.ports import Backend, Claim, Ending, JobFilter, NotClaimed, QueueState
from tests.contract.conftest import Maker
from tests.contract.performers import (
    A_MOMENT,
    CANCELLED,
    COMPLETED,
    FAILED,
    LEASE,
    claimed,
    created,
    ended,
    new_job,
    perform,
    record_of,
    started,
)
from tests.support.leak_check import no_leaks
from tests.support.wait_until import wait_until

EVERYTHING = JobFilter()


async def test_a_record_is_read_as_it_was_written(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    queue = QueueName("modèle/α.b c", Tier.FLEX)
    job = new_job(
        queue=queue, mode="unary", detached=True, stored=True, seed=2**63 - 1, metadata={"a.b": 'x"y', "ключ": "值"}
    )
    await one.store.create(job, body=b"{}")
    assert await other.store.get(job.id) == job


async def test_there_is_no_record_of_an_unknown_job(backend: Backend) -> None:
    assert await backend.store.get(new_job_id()) is None


async def test_repeating_a_create_changes_nothing(backend: Backend) -> None:
    job, claim = await started(backend)
    await backend.store.create(job, body=b"{}")
    assert (await record_of(backend, job.id)).attempt == claim.attempt
    await perform(backend, claim, [])


async def test_a_discarded_job_was_never_there(backend: Backend) -> None:
    job = new_job()
    await backend.store.create(job, body=b"{}")
    await backend.store.discard(job)
    assert await backend.store.get(job.id) is None
    assert not await backend.store.knew(job.tenant, job.id)
    assert await backend.store.list(job.tenant, EVERYTHING, after=None, limit=10) == []
    assert await backend.scheduler.position(job) is None
    assert await backend.store.claim(job.id, "worker-1", LEASE) == NotClaimed(None)


async def ids_of(
    backend: Backend, tenant: str, where: JobFilter = EVERYTHING, after: str | None = None, limit: int = 100
) -> list[str]:
    return [job.id for job in await backend.store.list(tenant, where, after=after, limit=limit)]


async def test_a_list_is_newest_first_and_goes_on_after_an_id(backend: Backend) -> None:
    ids = [(await created(backend, tenant="a")).id for _ in range(7)]
    await created(backend, tenant="b")
    newest_first = ids[::-1]
    assert await ids_of(backend, "a") == newest_first
    assert await ids_of(backend, "a", limit=3) == newest_first[:3]
    assert await ids_of(backend, "a", after=newest_first[2], limit=3) == newest_first[3:6]
    assert await ids_of(backend, "a", after=newest_first[5], limit=3) == newest_first[6:]
    assert await ids_of(backend, "a", after=newest_first[6]) == []
    assert await ids_of(backend, "nobody") == []


async def test_a_list_is_filtered(backend: Backend) -> None:
    red = await created(backend, metadata={"colour": "red", "size": "l"})
    blue = await created(backend, metadata={"colour": "blue", "size": "l"})
    other = await created(backend, queue=QueueName("other-model", Tier.DEFAULT))
    running, _ = await started(backend)
    assert await ids_of(backend, "tenant", JobFilter(metadata={"size": "l"})) == [blue.id, red.id]
    assert await ids_of(backend, "tenant", JobFilter(metadata={"size": "l", "colour": "red"})) == [red.id]
    assert await ids_of(backend, "tenant", JobFilter(metadata={"size": "m"})) == []
    assert await ids_of(backend, "tenant", JobFilter(model="other-model")) == [other.id]
    assert await ids_of(backend, "tenant", JobFilter(status=JobStatus.IN_PROGRESS)) == [running.id]
    queued = JobFilter(status=JobStatus.QUEUED, model="house-model")
    assert await ids_of(backend, "tenant", queued, limit=1) == [blue.id]
    assert await ids_of(backend, "tenant", queued, after=blue.id, limit=1) == [red.id]


async def test_jobs_that_did_not_end_well_are_listed_by_their_end(backend: Backend) -> None:
    failed, _ = await ended(backend, Ending(JobStatus.FAILED, error={"message": "no", "code": "engine_error"}))
    await ended(backend)
    waiting = await created(backend)
    await backend.store.cancel(waiting.id, Ending(JobStatus.CANCELLED, error={"message": "no", "code": "cancelled"}))
    retried, _ = await ended(backend, Ending(JobStatus.FAILED, error={"message": "no", "code": "engine_error"}))
    await backend.store.retry(retried.id, time.time() + 60)
    assert await ids_of(backend, "tenant", JobFilter(status=JobStatus.FAILED)) == [failed.id]
    assert await ids_of(backend, "tenant", JobFilter(status=JobStatus.CANCELLED)) == [waiting.id]
    assert await ids_of(backend, "tenant", JobFilter(code="engine_error")) == [failed.id]
    assert await ids_of(backend, "tenant", JobFilter(code="cancelled")) == [waiting.id]
    assert await ids_of(backend, "tenant", JobFilter(status=JobStatus.QUEUED)) == [retried.id]
    assert await ids_of(backend, "nobody", JobFilter(status=JobStatus.QUEUED)) == []


async def test_listed_records_are_whole(backend: Backend) -> None:
    job, _ = await ended(backend)
    (listed,) = await backend.store.list(job.tenant, EVERYTHING, after=None, limit=1)
    assert listed == await record_of(backend, job.id)


async def test_a_tenant_knows_its_own_jobs_only(backend: Backend) -> None:
    job = await created(backend, tenant="a")
    assert await backend.store.knew("a", job.id)
    assert not await backend.store.knew("b", job.id)
    assert not await backend.store.knew("a", new_job_id())


async def test_expired_data_is_gone_and_the_job_is_remembered(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    kept, _ = await ended(one)
    job, _ = await ended(one, retention=A_MOMENT)
    assert await one.store.get(job.id) is not None
    await wait_until(lambda: is_gone(other, job.id))
    assert await one.log.read(job.id) == b""
    assert await ids_of(one, job.tenant) == [kept.id]
    assert await one.store.claim(job.id, "worker-1", LEASE) == NotClaimed(None)
    assert await one.store.knew(job.tenant, job.id)
    assert not await one.store.knew("someone else", job.id)


async def test_the_body_goes_with_the_record(backend: Backend) -> None:
    job = new_job(retention=A_MOMENT)
    await backend.store.create(job, body=b"x" * 1000)
    await backend.store.cancel(job.id, CANCELLED)
    await wait_until(lambda: is_gone(backend, job.id))


async def is_gone(backend: Backend, job_id: str) -> bool:
    return await backend.store.get(job_id) is None


async def test_retention_begins_with_the_end(backend: Backend) -> None:
    """A job may wait and run for longer than its data is kept afterwards."""
    job, claim = await started(backend, retention=A_MOMENT)
    later, _ = await ended(backend, retention=2 * A_MOMENT)
    await wait_until(lambda: is_gone(backend, later.id))
    await perform(backend, claim, [])
    assert (await record_of(backend, job.id)).status is JobStatus.COMPLETED


async def test_a_position_counts_the_queued_jobs_before(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    first, second, third = [await created(one) for _ in range(3)]
    elsewhere = await created(one, queue=QueueName("house-model", Tier.FLEX))
    assert [await other.scheduler.position(job) for job in (first, second, third, elsewhere)] == [0, 1, 2, 0]
    claim = await claimed(one, first)
    await wait_until(lambda: positions_are(one, (first, None), (second, 0), (third, 1)))
    await one.store.cancel(second.id, CANCELLED)
    await wait_until(lambda: positions_are(one, (second, None), (third, 0)))
    await one.store.release(first.id, claim.attempt, counted=False)
    await wait_until(lambda: positions_are(one, (first, 0), (third, 1)))
    assert await one.store.end_unclaimed(third.id, FAILED)
    await wait_until(lambda: positions_are(one, (first, 0), (third, None)))


async def positions_are(backend: Backend, *wanted: tuple[Job, int | None]) -> bool:
    assert [(job, await backend.scheduler.position(job)) for job, _ in wanted] == list(wanted)
    return True


async def test_a_queue_tells_what_runs_and_since_when_the_oldest_waits(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    queue = new_job().queue
    assert await other.scheduler.queue_state(queue) == QueueState(0, None)
    first, second = new_job(), new_job()
    for job in (first, second):
        await one.store.create(job, body=b"{}")
    assert await state_is(other, 0, first)
    claim = await one.store.claim(first.id, "worker-1", LEASE)
    assert isinstance(claim, Claim)
    await wait_until(lambda: state_is(other, 1, second), "the claim to show")
    await perform(one, claim, [], COMPLETED)
    await wait_until(lambda: state_is(other, 0, second), "the end to show")


async def state_is(backend: Backend, running: int, oldest: Job) -> bool:
    state = await backend.scheduler.queue_state(oldest.queue)
    assert state.running == running
    assert state.oldest_at is not None
    assert abs(state.oldest_at - oldest.created_at) < 0.01
    return True


async def test_a_check_has_nothing_to_complain_about(backend: Backend) -> None:
    parts = await backend.check()
    assert parts
    assert set(parts.values()) == {None}


async def test_closing_gives_everything_back(maker: Maker) -> None:
    async with no_leaks(), maker() as backend:
        job = new_job()
        async with backend.log.follow(job.id, created_here=True), backend.queue.consume([job.queue], 4):
            await backend.store.create(job, body=b"{}", followed=True)
            claim = await backend.store.claim(job.id, "worker-1", LEASE)
            assert isinstance(claim, Claim)
            await perform(backend, claim, [], COMPLETED)


@pytest.mark.parametrize("kind", ["embedded", "distributed"], indirect=True)
async def test_what_one_process_wrote_the_next_one_finds(maker: Maker) -> None:
    async with maker() as backend:
        job, log = await ended(backend)
        record = await record_of(backend, job.id)
    async with maker() as backend:
        assert await record_of(backend, job.id) == record
        assert await backend.log.read(job.id) == log
