"""JobStore, the half that moves a job: claim, renew, release, finish, end, cancel."""

import asyncio
import time
from collections.abc import Awaitable

import pytest

from shared.job import Job, JobStatus, new_job_id
from shared.ports import AttemptFenced, Backend, Claim, Ending, LogShorter, NotClaimed
from tests.contract.performers import (
    A_MOMENT,
    CANCELLED,
    COMPLETED,
    EXPIRED,
    FAILED,
    LEASE,
    PATIENCE,
    a_worker,
    claimed,
    created,
    ended,
    follow_to_end,
    new_job,
    perform,
    read_to_end,
    record_of,
    some_frames,
    started,
    write,
)
from tests.support.wait_until import wait_until

# ── claim ──


async def test_a_claim_is_the_right_to_run_the_next_attempt(backend: Backend) -> None:
    job = new_job()
    await backend.store.create(job, body=b'{"a":1}')
    before = time.time()
    claim = await claimed(backend, job, "worker-1", with_body=True)
    assert claim == Claim(job.id, attempt=1, tries=0, lost=0, offset=0, body=b'{"a":1}')
    record = await record_of(backend, job.id)
    assert (record.status, record.attempt, record.owner) == (JobStatus.IN_PROGRESS, 1, "worker-1")
    assert record.started_at is not None
    assert before - 1 <= record.started_at <= time.time() + 1


async def test_a_claim_has_no_body_where_none_was_kept(backend: Backend) -> None:
    _, claim = await started(backend)
    assert claim.body is None


async def test_fifty_claims_at_once_give_one(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = await created(one)
    outcomes = await asyncio.gather(
        *((one, other)[number % 2].store.claim(job.id, f"worker-{number}", LEASE) for number in range(50))
    )
    (claim,) = [outcome for outcome in outcomes if isinstance(outcome, Claim)]
    owner = (await record_of(one, job.id)).owner
    refused = [outcome for outcome in outcomes if outcome is not claim]
    assert refused == [NotClaimed(JobStatus.IN_PROGRESS, owner)] * 49
    assert claim.attempt == 1


async def test_no_claim_on_what_is_not_there(backend: Backend) -> None:
    assert await backend.store.claim(new_job_id(), "worker-1", LEASE) == NotClaimed(None)


@pytest.mark.parametrize("ending", [COMPLETED, FAILED, CANCELLED, EXPIRED], ids=lambda ending: str(ending.status))
async def test_no_claim_on_what_is_over(backend: Backend, ending: Ending) -> None:
    job, _ = await ended(backend, ending)
    assert await backend.store.claim(job.id, "worker-2", LEASE) == NotClaimed(ending.status)


async def test_no_claim_on_what_is_being_cancelled(backend: Backend) -> None:
    async with backend.registry.join(a_worker("worker-1")):
        job, _ = await started(backend, owner="worker-1")
        await backend.store.cancel(job.id, CANCELLED)
        refusal = await backend.store.claim(job.id, "worker-2", LEASE)
        assert refusal == NotClaimed(JobStatus.IN_PROGRESS, "worker-1", cancelling=True)


async def test_a_lease_that_has_run_out_is_taken_over_and_counts(backend: Backend) -> None:
    job = await created(backend)
    await claimed(backend, job, "worker-1", lease=A_MOMENT)
    assert await backend.store.claim(job.id, "worker-2", LEASE) == NotClaimed(JobStatus.IN_PROGRESS, "worker-1")
    claim = await wait_until(lambda: claim_or_none(backend, job.id))
    assert (claim.attempt, claim.tries) == (2, 1)


async def claim_or_none(backend: Backend, job_id: str) -> Claim | None:
    outcome = await backend.store.claim(job_id, "worker-2", LEASE)
    return outcome if isinstance(outcome, Claim) else None


async def test_a_renewed_lease_holds(backend: Backend) -> None:
    job = await created(backend)
    claim = await claimed(backend, job, "worker-1", lease=A_MOMENT)
    await backend.store.renew(job.id, claim.attempt, LEASE)
    outlived = time.time() + A_MOMENT
    await wait_until(lambda: time.time() > outlived)
    assert await backend.store.claim(job.id, "worker-2", LEASE) == NotClaimed(JobStatus.IN_PROGRESS, "worker-1")


async def test_a_lost_owners_lease_counts_for_nothing(backend: Backend) -> None:
    job, _ = await started(backend, owner="dead")
    assert isinstance(await backend.store.claim(job.id, "worker-2", LEASE, lost="someone else"), NotClaimed)
    claim = await claimed(backend, job, "worker-2", lost="dead")
    assert claim == Claim(job.id, 2, tries=1, lost=1, offset=0)
    assert (await record_of(backend, job.id)).owner == "worker-2"


async def test_an_attempt_that_got_on_clears_its_job_of_blame(backend: Backend) -> None:
    job, _ = await started(backend, owner="dead-1")
    second = await claimed(backend, job, "dead-2", lost="dead-1")
    assert (second.tries, second.lost) == (1, 1)
    size = await write(backend, second, some_frames(2))
    third = await claimed(backend, job, "dead-3", lost="dead-2")
    assert (third.tries, third.lost, third.offset) == (1, 0, size)
    fourth = await claimed(backend, job, "dead-4", lost="dead-3")
    assert (fourth.tries, fourth.lost) == (2, 1), "the third had added nothing"


async def test_a_claim_whose_answer_got_lost_may_be_repeated_and_counts_for_nothing(backend: Backend) -> None:
    job, _ = await started(backend, owner="worker-1")
    again = await claimed(backend, job, "worker-1")
    assert (again.attempt, again.tries, again.lost) == (2, 0, 0)


async def test_a_claim_keeps_the_first_start(backend: Backend) -> None:
    job, _ = await started(backend, owner="dead")
    first = (await record_of(backend, job.id)).started_at
    await claimed(backend, job, "worker-2", lost="dead")
    assert (await record_of(backend, job.id)).started_at == first


# ── renew and release ──


async def test_a_lost_attempt_can_neither_renew_nor_release_nor_finish(backend: Backend) -> None:
    job, zombie = await started(backend, owner="dead")
    claim = await claimed(backend, job, "worker-2", lost="dead")
    before = await record_of(backend, job.id)
    store = backend.store
    for step in (
        store.renew(job.id, zombie.attempt, LEASE),
        store.release(job.id, zombie.attempt, counted=True),
        store.finish(job.id, zombie.attempt, 0, COMPLETED),
    ):
        await expect_fenced(step, JobStatus.IN_PROGRESS)
    assert await record_of(backend, job.id) == before
    assert await backend.log.read(job.id) == b""
    await perform(backend, claim, [])


async def test_a_job_that_is_over_or_gone_is_fenced(backend: Backend) -> None:
    job, _ = await ended(backend)
    for job_id, status in ((job.id, JobStatus.COMPLETED), (new_job_id(), None)):
        await expect_fenced(backend.store.renew(job_id, 1, LEASE), status)
        await expect_fenced(backend.store.release(job_id, 1, counted=False), status)
        await expect_fenced(backend.store.finish(job_id, 1, 0, FAILED), status)


async def expect_fenced(step: Awaitable[None], status: JobStatus | None) -> None:
    with pytest.raises(AttemptFenced) as refusal:
        await step
    assert refusal.value.status == status


async def test_no_renewal_of_what_is_being_cancelled(backend: Backend) -> None:
    async with backend.registry.join(a_worker("worker-1")):
        job, claim = await started(backend, owner="worker-1")
        await backend.store.cancel(job.id, CANCELLED)
        with pytest.raises(AttemptFenced) as refusal:
            await backend.store.renew(job.id, claim.attempt, LEASE)
        assert refusal.value.cancelling


@pytest.mark.parametrize("counted", [True, False])
async def test_a_released_job_is_queued_and_runs_again(backend: Backend, counted: bool) -> None:
    job, first = await started(backend)
    size = await write(backend, first, some_frames(1))
    await backend.store.release(job.id, first.attempt, counted=counted)
    record = await record_of(backend, job.id)
    assert (record.status, record.owner, record.tries) == (JobStatus.QUEUED, None, int(counted))
    again = await claimed(backend, job, "worker-2")
    assert again == Claim(job.id, attempt=2, tries=int(counted), lost=0, offset=size)
    await expect_fenced(backend.store.release(job.id, first.attempt, counted=True), JobStatus.IN_PROGRESS)


# ── finish ──


async def test_finish_writes_everything_in_one_step(backend: Backend) -> None:
    job, log = await ended(backend, retention=50.0)
    record = await record_of(backend, job.id)
    assert record.status is JobStatus.COMPLETED
    assert (record.result, record.usage, record.error) == (COMPLETED.result, COMPLETED.usage, None)
    assert (record.owner, record.chunks) == (None, 4)
    assert record.first_token_at is not None
    assert record.finished_at is not None
    assert record.expires_at == pytest.approx(record.finished_at + 50.0, abs=1)
    assert await backend.log.read(job.id) == log


async def test_repeating_finish_does_nothing(backend: Backend) -> None:
    job, claim = await started(backend)
    log = await perform(backend, claim, some_frames(2))
    before = await record_of(backend, job.id)
    await backend.store.finish(job.id, claim.attempt, len(log) - len(COMPLETED.frames), COMPLETED)
    assert await record_of(backend, job.id) == before
    assert await backend.log.read(job.id) == log


async def test_finish_repeats_the_frames_it_finds_there(backend: Backend) -> None:
    """The last frames were appended already, by an append whose answer got lost."""
    job, claim = await started(backend)
    await backend.log.append(job.id, claim.attempt, 0, COMPLETED.frames)
    await backend.store.finish(job.id, claim.attempt, 0, COMPLETED)
    assert await backend.log.read(job.id) == COMPLETED.frames


async def test_finish_beyond_the_end_is_refused(backend: Backend) -> None:
    job, claim = await started(backend)
    with pytest.raises(LogShorter) as refused:
        await backend.store.finish(job.id, claim.attempt, 1, COMPLETED)
    assert refused.value.size == 0
    record = await record_of(backend, job.id)
    assert (record.status, record.result) == (JobStatus.IN_PROGRESS, None)
    assert await backend.log.read(job.id) == b""


async def test_an_owner_finishes_what_is_being_cancelled(backend: Backend) -> None:
    async with backend.registry.join(a_worker("worker-1")):
        job, claim = await started(backend, owner="worker-1")
        size = await write(backend, claim, some_frames(1))
        await backend.store.cancel(job.id, CANCELLED)
        await backend.store.finish(job.id, claim.attempt, size, CANCELLED)
    assert (await record_of(backend, job.id)).status is JobStatus.CANCELLED
    assert (await follow_to_end(backend, job.id)).ending.status is JobStatus.CANCELLED


# ── end_unclaimed ──


@pytest.mark.parametrize("ending", [FAILED, EXPIRED, CANCELLED], ids=lambda ending: str(ending.status))
async def test_a_queued_job_is_ended_and_its_followers_told(replicas: tuple[Backend, Backend], ending: Ending) -> None:
    one, other = replicas
    job = new_job()
    async with one.log.follow(job.id, created_here=True) as follower:
        await one.store.create(job, body=b"{}", followed=True)
        assert await other.store.end_unclaimed(job.id, ending)
        story = await read_to_end(follower)
    assert story.data == ending.frames
    assert (story.ending.status, story.ending.error) == (ending.status, ending.error)
    assert not await other.store.end_unclaimed(job.id, FAILED)
    assert (await record_of(one, job.id)).status is ending.status


async def test_a_queued_job_cannot_be_completed(backend: Backend) -> None:
    job = await created(backend)
    assert not await backend.store.end_unclaimed(job.id, COMPLETED)
    assert (await record_of(backend, job.id)).status is JobStatus.QUEUED


async def test_a_held_job_is_ended_only_by_naming_its_dead_owner(backend: Backend) -> None:
    job, claim = await started(backend, owner="dead")
    size = await write(backend, claim, some_frames(1))
    assert not await backend.store.end_unclaimed(job.id, FAILED)
    assert not await backend.store.end_unclaimed(job.id, FAILED, owner="someone else")
    assert await backend.store.end_unclaimed(job.id, FAILED, owner="dead")
    assert (await backend.log.read(job.id))[size:] == FAILED.frames
    await expect_fenced(backend.store.finish(job.id, claim.attempt, size, COMPLETED), JobStatus.FAILED)


async def test_nothing_to_end_where_there_is_no_job(backend: Backend) -> None:
    assert not await backend.store.end_unclaimed(new_job_id(), FAILED)


# ── cancel ──


async def test_a_queued_job_is_cancelled_at_once(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = new_job()
    async with one.log.follow(job.id, created_here=True) as follower:
        await one.store.create(job, body=b"{}", followed=True)
        await other.store.cancel(job.id, CANCELLED)
        story = await read_to_end(follower)
    assert (story.data, story.ending.status) == (CANCELLED.frames, JobStatus.CANCELLED)
    assert await one.store.claim(job.id, "worker-1", LEASE) == NotClaimed(JobStatus.CANCELLED)


async def test_a_running_jobs_owner_is_told(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    async with one.registry.join(a_worker("worker-1")) as member, one.registry.join(a_worker("worker-2")):
        job, _ = await started(one, owner="worker-1")
        await other.store.cancel(job.id, CANCELLED)
        async with asyncio.timeout(PATIENCE):
            assert await anext(member.cancels) == job.id
        assert (await record_of(one, job.id)).status is JobStatus.IN_PROGRESS


async def test_a_job_that_is_claimed_while_it_is_cancelled_is_cancelled_all_the_same(backend: Backend) -> None:
    """Whichever comes first: it is over, or its owner may not go on."""
    async with backend.registry.join(a_worker("worker-1")):
        jobs = [await created(backend) for _ in range(20)]
        steps = [(backend.store.cancel(job.id, CANCELLED), claim_of(backend, job)) for job in jobs]
        await asyncio.gather(*(step for pair in steps for step in pair))
        for job in jobs:
            if (record := await record_of(backend, job.id)).status is JobStatus.IN_PROGRESS:
                await expect_fenced(backend.store.renew(job.id, record.attempt, LEASE), JobStatus.IN_PROGRESS)
            else:
                assert record.status is JobStatus.CANCELLED


async def claim_of(backend: Backend, job: Job) -> Claim | NotClaimed:
    return await backend.store.claim(job.id, "worker-1", LEASE)


async def test_a_dead_owners_job_is_cancelled_at_once(backend: Backend) -> None:
    async with backend.registry.join(a_worker("worker-1")):
        job, _ = await started(backend, owner="worker-1")
    await backend.store.cancel(job.id, CANCELLED)
    assert (await record_of(backend, job.id)).status is JobStatus.CANCELLED
    assert await backend.log.read(job.id) == CANCELLED.frames


async def test_cancelling_does_nothing_to_what_is_over_or_unknown(backend: Backend) -> None:
    job, _ = await ended(backend)
    before = await record_of(backend, job.id)
    await backend.store.cancel(job.id, CANCELLED)
    await backend.store.cancel(new_job_id(), CANCELLED)
    assert await record_of(backend, job.id) == before


async def test_a_released_job_that_was_being_cancelled_never_runs_again(backend: Backend) -> None:
    """Released by its owner, who did not hear of it: whoever takes it next ends it."""
    async with backend.registry.join(a_worker("worker-1")):
        job, claim = await started(backend, owner="worker-1")
        await backend.store.cancel(job.id, CANCELLED)
        await backend.store.release(job.id, claim.attempt, counted=False)
        refusal = await backend.store.claim(job.id, "worker-2", LEASE)
        assert refusal == NotClaimed(JobStatus.QUEUED, cancelling=True)
        assert await backend.store.end_unclaimed(job.id, CANCELLED)
