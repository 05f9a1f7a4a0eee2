"""JobLog, the writing half: append and read."""

import asyncio
import time
from dataclasses import replace

import pytest

from shared.job import JobStatus, new_job_id
from shared.ports import AttemptFenced, Backend, LogShorter, Progress
from tests.contract.performers import (
    CANCELLED,
    COMPLETED,
    PATIENCE,
    a_worker,
    claimed,
    created,
    ended,
    read_at_least,
    record_of,
    some_frames,
    started,
    write,
)


async def test_what_is_appended_is_read_from_any_offset(backend: Backend) -> None:
    job, claim = await started(backend)
    frames = some_frames(5)
    await write(backend, claim, frames)
    log = b"".join(frames)
    for offset in (0, 1, len(frames[0]), len(log) - 1, len(log), len(log) + 10):
        assert await backend.log.read(job.id, offset) == log[offset:]


async def test_the_log_of_no_job_is_empty(backend: Backend) -> None:
    assert await backend.log.read(new_job_id()) == b""


async def test_repeating_an_append_does_nothing(backend: Backend) -> None:
    job, claim = await started(backend)
    one, two = some_frames(2)
    for offset, data in ((0, one), (0, one), (len(one), two), (0, one), (len(one), two)):
        await backend.log.append(job.id, claim.attempt, offset, data)
    assert await backend.log.read(job.id) == one + two
    assert (await record_of(backend, job.id)).chunks == 2


async def test_an_append_that_took_place_in_part_adds_the_rest(backend: Backend) -> None:
    job, claim = await started(backend)
    one, two = some_frames(2)
    await backend.log.append(job.id, claim.attempt, 0, one)
    await backend.log.append(job.id, claim.attempt, 0, one + two)
    assert await backend.log.read(job.id) == one + two


async def test_an_append_beyond_the_end_is_refused(backend: Backend) -> None:
    job, claim = await started(backend)
    (one,) = some_frames(1)
    with pytest.raises(LogShorter) as refused:
        await backend.log.append(job.id, claim.attempt, 1, one)
    assert await backend.log.read(job.id) == b""
    assert refused.value.size == 0
    await backend.log.append(job.id, claim.attempt, 0, one)
    with pytest.raises(LogShorter) as refused:
        await backend.log.append(job.id, claim.attempt, len(one) + 1, one)
    assert refused.value.size == len(one)
    assert await backend.log.read(job.id) == one
    assert (await record_of(backend, job.id)).chunks == 1


async def test_a_stale_attempt_is_fenced(backend: Backend) -> None:
    job, zombie = await started(backend, owner="dead")
    one, two = some_frames(2)
    await backend.log.append(job.id, zombie.attempt, 0, one)
    claim = await claimed(backend, job, lost="dead")
    with pytest.raises(AttemptFenced) as refusal:
        await backend.log.append(job.id, zombie.attempt, len(one), two)
    assert refusal.value.status is JobStatus.IN_PROGRESS
    assert not refusal.value.cancelling
    assert claim.offset == len(one)
    await backend.log.append(job.id, claim.attempt, len(one), two)
    assert await backend.log.read(job.id) == one + two


async def test_an_attempt_that_was_never_given_is_fenced(backend: Backend) -> None:
    job = await created(backend)
    await expect_fenced(backend, job.id, 0, JobStatus.QUEUED)
    await claimed(backend, job)
    await expect_fenced(backend, job.id, 2, JobStatus.IN_PROGRESS)
    await expect_fenced(backend, new_job_id(), 1, None)


async def test_a_released_attempt_is_fenced(backend: Backend) -> None:
    job, claim = await started(backend)
    await backend.store.release(job.id, claim.attempt, counted=False)
    await expect_fenced(backend, job.id, claim.attempt, JobStatus.QUEUED)


async def test_a_job_that_is_over_takes_no_more(backend: Backend) -> None:
    job, log = await ended(backend)
    await expect_fenced(backend, job.id, 1, JobStatus.COMPLETED, offset=len(log))


async def test_a_job_that_is_being_cancelled_takes_no_more(backend: Backend) -> None:
    async with backend.registry.join(a_worker("worker-1")):
        job, claim = await started(backend, owner="worker-1")
        await backend.store.cancel(job.id, CANCELLED)
        with pytest.raises(AttemptFenced) as refusal:
            await backend.log.append(job.id, claim.attempt, 0, b"data: 1\n\n")
    assert refusal.value.cancelling


async def expect_fenced(backend: Backend, job_id: str, attempt: int, status: JobStatus | None, offset: int = 0) -> None:
    before = await backend.log.read(job_id)
    with pytest.raises(AttemptFenced) as refusal:
        await backend.log.append(job_id, attempt, offset, b"data: 1\n\n")
    assert refusal.value.status == status
    assert await backend.log.read(job_id) == before


async def test_appends_of_one_turn_take_place_in_order(backend: Backend) -> None:
    """Called without a task: under way at once, awaited afterwards; a refused one does not hinder the others."""
    running = [await started(backend) for _ in range(5)]
    frames = some_frames(20)
    appends: list[asyncio.Future[None]] = []
    for turn in range(20):
        offset = sum(map(len, frames[:turn]))
        for job, claim in running:
            appends.append(asyncio.ensure_future(backend.log.append(job.id, claim.attempt, offset, frames[turn])))
    refused = asyncio.ensure_future(backend.log.append(running[0][0].id, 9, 0, b"data: 9\n\n"))
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([*appends, refused])
    assert isinstance(refused.exception(), AttemptFenced)
    assert not any(append.exception() for append in appends)
    for job, _ in running:
        assert await backend.log.read(job.id) == b"".join(frames)


async def test_an_append_nobody_waits_for_takes_place(backend: Backend) -> None:
    job, claim = await started(backend)
    (one,) = some_frames(1)
    abandoned = asyncio.ensure_future(backend.log.append(job.id, claim.attempt, 0, one))
    abandoned.cancel()
    async with backend.log.follow(job.id) as follower:
        assert await read_at_least(follower, len(one)) == one


async def test_a_large_append_is_read_from_any_offset_and_its_frames_are_counted(backend: Backend) -> None:
    job, claim = await started(backend)
    frames = some_frames(10_000)
    log, half = b"".join(frames), len(b"".join(frames[:5_000]))
    assert half > 64 * 1024
    await backend.log.append(job.id, claim.attempt, 0, log[:half])
    await backend.log.append(job.id, claim.attempt, half, log[half:])
    for offset in (0, 1, 32 * 1024, half - 1, half, len(log) - 1, len(log)):
        assert await backend.log.read(job.id, offset) == log[offset:]
    assert (await record_of(backend, job.id)).chunks == len(frames)


async def test_progress_is_written_with_its_frames_and_read_while_the_job_runs(backend: Backend) -> None:
    job, claim = await started(backend)
    one, two = some_frames(2)
    assert await backend.log.read_progress(job.id) == b""
    for offset, frames, progress in (
        (0, one, Progress(0, b"abc")),
        (len(one), two, Progress(3, b"de")),
        (len(one), two, Progress(3, b"de")),
    ):
        await backend.log.append(job.id, claim.attempt, offset, frames, progress)
    assert await backend.log.read_progress(job.id) == b"abcde"
    assert await backend.log.read(job.id) == one + two

    await backend.store.release(job.id, claim.attempt, counted=False)
    claim = await claimed(backend, job)
    assert await backend.log.read_progress(job.id) == b"abcde", "the next attempt needs it"

    await backend.store.finish(job.id, claim.attempt, claim.offset, COMPLETED)
    assert await backend.log.read_progress(job.id) == b"", "an answer that is over is not continued"


async def test_progress_begins_anew_at_offset_0_and_with_a_gap_is_dropped(backend: Backend) -> None:
    job, claim = await started(backend)
    offset = 0
    for progress, left in (
        (Progress(0, b"abcdef"), b"abcdef"),
        (Progress(0, b"xyz"), b"xyz"),
        (Progress(2, b"zab"), b"xyzab"),
        (None, b"xyzab"),
        (Progress(9, b"late"), b""),
        (Progress(13, b"later"), b""),
        (Progress(0, b"new"), b"new"),
    ):
        (frame,) = some_frames(1)
        await backend.log.append(job.id, claim.attempt, offset, frame, progress)
        offset += len(frame)
        assert await backend.log.read_progress(job.id) == left


async def test_the_progress_of_a_refused_append_is_not_written(backend: Backend) -> None:
    job, zombie = await started(backend, owner="dead")
    (one,) = some_frames(1)
    await backend.log.append(job.id, zombie.attempt, 0, one, Progress(0, b"abc"))
    await claimed(backend, job, lost="dead")
    with pytest.raises(AttemptFenced):
        await backend.log.append(job.id, zombie.attempt, len(one), one, Progress(3, b"def"))
    assert await backend.log.read_progress(job.id) == b"abc"


async def test_the_progress_of_a_job_that_is_deleted_or_tried_again_is_gone(backend: Backend) -> None:
    job, claim = await started(backend)
    (one,) = some_frames(1)
    await backend.log.append(job.id, claim.attempt, 0, one, Progress(0, b"abc"))
    await backend.store.finish(job.id, claim.attempt, len(one), replace(COMPLETED, status=JobStatus.FAILED))
    assert await backend.store.retry(job.id, time.time() + 600)
    assert await backend.log.read_progress(job.id) == b""
