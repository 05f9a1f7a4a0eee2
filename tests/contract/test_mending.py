"""What is lost is found again: forgotten records, lost messages, failed jobs that a person wants once more."""

import time
from dataclasses import replace

import pytest
import redis

from shared.errors import LogLost
from shared.job import JobStatus, QueueName, Tier
from shared.ports import AttemptFenced, Backend, Claim, Ending, JobFilter, NotClaimed
from tests.contract.performers import (
    A_MOMENT,
    CANCELLED,
    COMPLETED,
    FAILED,
    LEASE,
    PATIENCE,
    QUEUE,
    a_worker,
    claimed,
    consume,
    created,
    ended,
    follow_to_end,
    message_for,
    new_job,
    next_of,
    perform,
    publish,
    record_of,
    some_frames,
    started,
    submit,
    taken,
    write,
)
from tests.support.wait_until import wait_until

# ── the request ──


@pytest.mark.parametrize(("ending", "kept"), [(COMPLETED, False), (CANCELLED, False), (FAILED, True)])
async def test_a_request_is_kept_while_somebody_may_need_it(backend: Backend, ending: Ending, kept: bool) -> None:
    job, claim = await started(backend)
    assert await backend.store.body(job.id) == b"{}"
    await perform(backend, claim, [], ending)
    assert await backend.store.body(job.id) == (b"{}" if kept else None)


async def test_a_detached_jobs_request_is_kept_as_long_as_its_record(backend: Backend) -> None:
    job, _ = await ended(backend, detached=True)
    assert await backend.store.body(job.id) == b"{}"


# ── retry ──


async def test_a_failed_job_is_tried_again_from_the_start(backend: Backend) -> None:
    job, first = await started(backend, owner="dead")
    second = await claimed(backend, job, "worker-1", lost="dead")
    await perform(backend, second, some_frames(3), FAILED)
    deadline = time.time() + 1000.0

    assert await backend.store.retry(job.id, deadline)

    record = await record_of(backend, job.id)
    assert (record.status, record.tries, record.error, record.finished_at) == (JobStatus.QUEUED, 0, None, None)
    assert (record.deadline_at, record.chunks, record.started_at) == (pytest.approx(deadline), 0, None)
    assert await backend.log.read(job.id) == b""
    third = await claimed(backend, job, "worker-2")
    assert third == Claim(job.id, 3, tries=0, lost=0, offset=0)
    log = await perform(backend, third, some_frames(2))
    assert (await follow_to_end(backend, job.id)).data == log
    assert first.attempt == 1


@pytest.mark.parametrize("ending", [COMPLETED, CANCELLED], ids=lambda ending: str(ending.status))
async def test_what_did_not_fail_is_not_tried_again(backend: Backend, ending: Ending) -> None:
    job, log = await ended(backend, ending, detached=True)
    assert not await backend.store.retry(job.id, time.time() + 1000.0)
    assert await backend.log.read(job.id) == log


async def test_nothing_that_is_not_there_is_tried_again(backend: Backend) -> None:
    assert not await backend.store.retry(new_job().id, time.time() + 1000.0)


async def test_failed_jobs_are_found_by_their_errors_code(backend: Backend) -> None:
    coded = replace(FAILED, error={"message": "too often", "code": "attempts_exhausted"})
    job, _ = await ended(backend, coded)
    await ended(backend, FAILED)
    await ended(backend)
    found = await backend.store.list("tenant", JobFilter(code="attempts_exhausted"), after=None, limit=10)
    assert [each.id for each in found] == [job.id]


async def test_dead_jobs_are_found_whoever_they_belong_to(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    exhausted = replace(FAILED, error={"message": "too often", "code": "attempts_exhausted"})
    alices, _ = await ended(one, exhausted, tenant="alice")
    bobs, _ = await ended(one, exhausted, tenant="bob", queue=QueueName("another", Tier.FLEX))
    await ended(one, FAILED)
    waiting = await created(one, tenant="bob")
    assert await one.store.end_unclaimed(waiting.id, exhausted)

    newest = [waiting.id, bobs.id, alices.id]
    assert [job.id for job in await other.store.dead(limit=10)] == newest
    assert [job.id for job in await other.store.dead(limit=1, after=newest[0])] == newest[1:2]
    assert [job.id for job in await other.store.dead(limit=10, model="another")] == [bobs.id]
    assert await one.store.retry(bobs.id, time.time() + 60)
    assert [job.id for job in await other.store.dead(limit=10)] == [waiting.id, alices.id]


# ── records ──


async def test_a_discarded_job_is_not_restored_by_a_message_that_comes_after_all(backend: Backend) -> None:
    job = await created(backend)
    await backend.store.discard(job, may_come=True)
    assert await backend.store.claim(job.id, "worker-1", LEASE) == NotClaimed(None)
    assert not await backend.store.restore(job, body=b"{}")
    assert await backend.store.get(job.id) is None
    assert await backend.store.list("tenant", JobFilter(), after=None, limit=10) == []


async def test_a_job_that_is_there_is_not_restored(backend: Backend) -> None:
    job, log = await ended(backend)
    assert not await backend.store.restore(job, body=b"{}")
    assert await backend.log.read(job.id) == log


async def test_a_job_whose_data_has_expired_is_not_restored(backend: Backend) -> None:
    job, _ = await ended(backend, retention=A_MOMENT)
    await wait_until(lambda: is_gone(backend, job.id))
    assert not await backend.store.restore(job, body=b"{}")


async def is_gone(backend: Backend, job_id: str) -> bool:
    return await backend.store.get(job_id) is None


@pytest.mark.parametrize("kind", ["distributed"], indirect=True)
async def test_a_job_that_the_store_has_lost_is_restored_from_its_message(backend: Backend, redis_url: str) -> None:
    job = await submit(backend, metadata={"a": "b"}, seed=7)
    flush(redis_url)
    async with consume(backend) as consumer:
        message = (await next_of(consumer)).message
        assert await backend.store.restore(message.job, body=message.body)
        assert await record_of(backend, job.id) == job
        assert await backend.store.knew(job.tenant, job.id)
        claim = await claimed(backend, job, with_body=True)
        assert (claim.body, (await record_of(backend, job.id)).attempt) == (message.body, 1)


@pytest.mark.parametrize("kind", ["distributed"], indirect=True)
async def test_who_held_a_job_before_the_store_lost_it_is_fenced_after(backend: Backend, redis_url: str) -> None:
    """Although both are the first attempt, and nothing has been written since."""
    job, before = await started(backend)
    claims = [before]
    for _ in range(2):
        flush(redis_url)
        assert await backend.store.restore(job, body=b"{}")
        claims.append(await claimed(backend, job))
        for zombie in claims[:-1]:
            with pytest.raises(AttemptFenced):
                await backend.log.append(job.id, zombie.attempt, 0, some_frames(1)[0])
            with pytest.raises(AttemptFenced):
                await backend.store.finish(job.id, zombie.attempt, 0, COMPLETED)
    log = await perform(backend, claims[-1], some_frames(2))
    assert (await follow_to_end(backend, job.id)).data == log


@pytest.mark.parametrize("kind", ["distributed"], indirect=True)
async def test_a_reader_hears_of_every_loss(backend: Backend, redis_url: str) -> None:
    job, claim = await started(backend)
    for loss in range(2):
        await write(backend, claim, some_frames(2))
        async with backend.log.follow(job.id) as follower:
            assert (await follower.next(PATIENCE)) is not None
            flush(redis_url)
            assert await backend.store.restore(job, body=b"{}"), loss
            claim = await claimed(backend, job)
            await write(backend, claim, some_frames(3))
            with pytest.raises(LogLost):
                while True:
                    await follower.next(A_MOMENT)


def flush(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()


# ── orphans ──


async def orphans(backend: Backend, waited: float = 0.0, queue: QueueName = QUEUE) -> list[str]:
    return [job.id for job in await backend.orphans(queue, waited)]


async def test_a_queued_job_without_a_message_is_a_stray(backend: Backend) -> None:
    job = await created(backend)
    elsewhere = await created(backend, queue=QueueName("house-model", Tier.FLEX))
    assert await wait_until(lambda: orphans(backend)) == [job.id]
    assert await wait_until(lambda: orphans(backend, queue=elsewhere.queue)) == [elsewhere.id]
    assert await orphans(backend, waited=60.0) == []


async def test_a_job_with_a_message_is_none(backend: Backend) -> None:
    await submit(backend)
    assert await orphans(backend) == []


async def test_a_running_job_is_none_while_its_worker_renews_the_claim(backend: Backend) -> None:
    job = await submit(backend)
    async with consume(backend) as consumer, backend.registry.join(a_worker("worker-1")):
        delivery = await next_of(consumer)
        await claimed(backend, job, "worker-1")
        assert await orphans(backend) == []
        await delivery.ack()


async def test_a_dead_workers_job_without_a_message_is_a_stray(backend: Backend) -> None:
    job = await created(backend)
    await claimed(backend, job, "dead", lease=A_MOMENT)
    assert await wait_until(lambda: orphans(backend)) == [job.id]


async def test_what_is_over_is_none(backend: Backend) -> None:
    await ended(backend)
    await ended(backend, CANCELLED)
    assert await orphans(backend) == []


async def test_a_stray_that_was_published_again_is_none(backend: Backend) -> None:
    job = await created(backend)
    await backend.queue.publish(message_for(job))
    await backend.store.requeued(job.id)
    assert await orphans(backend) == []
    async with consume(backend) as consumer:
        assert await taken(consumer, 1) == [job.id]


@pytest.mark.parametrize("kind", ["distributed"], indirect=True)
async def test_a_job_that_was_overtaken_is_a_stray_although_others_wait(backend: Backend) -> None:
    lost = await created(backend)
    later = await submit(backend)
    await submit(backend)
    await publish(backend, *(new_job() for _ in range(2)))
    assert await orphans(backend) == [], "nobody has been claimed yet: it may be its turn next"
    async with consume(backend, prefetch=1) as consumer:
        for _ in range(2):  # The newest that waited when somebody last looked was the third.
            delivery = await next_of(consumer)
            claim = await claimed(backend, delivery.message.job)
            await perform(backend, claim, [])
            await delivery.ack()
    assert lost.id in await orphans(backend)
    assert later.id not in await orphans(backend)


async def test_an_interrupted_job_keeps_its_place_and_is_none(backend: Backend) -> None:
    job = await submit(backend)
    async with consume(backend) as consumer:
        delivery = await next_of(consumer)
        claim = await claimed(backend, job)
        await write(backend, claim, some_frames(1))
        await backend.store.release(job.id, claim.attempt, counted=False)
        await delivery.retry()
    assert await orphans(backend, waited=1.0) == []
