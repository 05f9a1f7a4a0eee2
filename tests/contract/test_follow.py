"""JobLog, the reading half, and Follower: every sentence of their docstrings."""

import asyncio
from contextlib import suppress

import pytest

from shared.backends.follower import BUFFER_LIMIT
from shared.errors import Gone
from shared.frames import DONE
from shared.job import JobStatus, Mode, new_job_id
from shared.ports import Backend, Claim, Ending, Follower, FollowerClosed
from tests.contract.conftest import Maker
from tests.contract.performers import (
    A_MOMENT,
    CANCELLED,
    COMPLETED,
    FAILED,
    PATIENCE,
    claimed,
    ended,
    follow_to_end,
    new_job,
    perform,
    read_at_least,
    read_to_end,
    some_frames,
    started,
    write,
)
from tests.support.wait_until import wait_until


async def test_a_finished_log_is_followed_from_any_offset(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job, log = await ended(one)
    for offset in (0, 3, len(log) - 1, len(log)):
        story = await follow_to_end(other, job.id, offset)
        assert story.data == log[offset:]
        assert story.statuses[-1] is story.ending.status is JobStatus.COMPLETED


async def test_a_sink_hears_each_byte_once_and_in_order(replicas: tuple[Backend, Backend]) -> None:
    """Many jobs, whose frames may travel together; each follower's sink has those of its own job."""
    one, other = replicas
    running = [await started(one) for _ in range(8)]
    frames = some_frames(12)
    logs = await asyncio.gather(
        *(followed_past_the_reader(other, job.id) for job, _ in running),
        *(perform(one, claim, frames) for _, claim in running),
    )
    assert logs[:8] == logs[8:]


async def followed_past_the_reader(backend: Backend, job_id: str) -> bytes:
    pieces: list[bytes] = []

    def sink(data: bytes) -> bool:
        pieces.append(data)
        return len(pieces) % 3 > 0

    async with asyncio.timeout(PATIENCE), backend.log.follow(job_id) as follower:
        while True:
            update = await follower.next(PATIENCE, sink)
            assert update is not None
            pieces.append(update.data)
            if update.ending is not None:
                return b"".join(pieces)


async def test_a_running_log_is_followed_from_the_middle(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job, claim = await started(one)
    frames = some_frames(6)
    size = await write(one, claim, frames[:3])
    offset = len(frames[0]) + 2
    log = b"".join(frames) + COMPLETED.frames
    async with other.log.follow(job.id, offset) as follower:
        assert await read_at_least(follower, size - offset) == log[offset:size]
        for data in frames[3:]:
            await one.log.append(job.id, claim.attempt, size, data)
            size += len(data)
        await one.store.finish(job.id, claim.attempt, size, COMPLETED)
        assert (await read_to_end(follower)).data == log[sum(map(len, frames[:3])) :]


async def test_the_replica_that_creates_a_job_follows_it_from_the_start(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = new_job()
    async with one.log.follow(job.id, created_here=True) as follower:
        await one.store.create(job, body=b"{}", followed=True)
        log = await perform(other, await claimed(other, job), some_frames(20))
        story = await read_to_end(follower)
    assert story.data == log
    assert story.ending.status is JobStatus.COMPLETED


async def test_a_follower_hears_of_the_claim_before_there_are_bytes(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = new_job()
    async with one.log.follow(job.id, created_here=True) as follower, one.log.follow(job.id) as reader:
        await one.store.create(job, body=b"{}", followed=True)
        assert await is_told(reader, JobStatus.QUEUED)
        claim = await claimed(other, job)
        assert await is_told(follower, JobStatus.IN_PROGRESS)
        assert await is_told(reader, JobStatus.IN_PROGRESS)
        await other.store.release(job.id, claim.attempt, counted=False)
        assert await is_told(follower, JobStatus.QUEUED)


async def is_told(follower: Follower, status: JobStatus) -> bool:
    async with asyncio.timeout(PATIENCE):
        update = await follower.next()
    return update is not None and update.status is status and not update.data


async def test_all_followers_see_the_same_bytes(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job, claim = await started(one)
    frames = some_frames(50)
    log = b"".join(frames) + COMPLETED.frames
    offsets = (0, 0, 7, 100, 300)
    async with asyncio.TaskGroup() as tasks:
        readers = [
            (offset, tasks.create_task(follow_to_end(backend, job.id, offset)))
            for offset in offsets
            for backend in (one, other)
        ]
        await perform(one, claim, frames)
    assert all(reader.result().data == log[offset:] for offset, reader in readers)


async def test_a_slow_reader_gets_every_byte(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = new_job()
    frames = [b"data: " + bytes([97 + number % 26]) * 30_000 + b"\n\n" for number in range(40)]
    async with (
        other.log.follow(job.id, created_here=True) as slow,
        one.log.follow(job.id) as slower,
    ):
        await other.store.create(job, body=b"{}", followed=True)
        claim = await claimed(one, job)
        size = await write(one, claim, frames[:1])
        assert await read_at_least(slow, size) == await read_at_least(slower, size)
        size = await write_on(one, claim, size, frames[1:])
        await one.store.finish(job.id, claim.attempt, size, COMPLETED)
        assert size > 4 * BUFFER_LIMIT
        log = (b"".join(frames) + COMPLETED.frames)[len(frames[0]) :]
        assert (await read_to_end(slow)).data == log
        assert (await read_to_end(slower)).data == log


async def write_on(backend: Backend, claim: Claim, size: int, frames: list[bytes]) -> int:
    for data in frames:
        await backend.log.append(claim.job_id, claim.attempt, size, data)
        size += len(data)
    return size


async def test_an_impatient_reader_misses_nothing(backend: Backend) -> None:
    job, claim = await started(backend)
    data = b""
    async with backend.log.follow(job.id) as follower, asyncio.TaskGroup() as tasks:
        performance = tasks.create_task(perform(backend, claim, some_frames(200)))
        ending = None
        while ending is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.0005):
                    update = await follower.next()
                    assert update is not None
                    data, ending = data + update.data, update.ending
    assert data == performance.result()


async def test_next_answers_none_when_time_is_up(backend: Backend) -> None:
    job, claim = await started(backend)
    (one,) = some_frames(1)
    async with backend.log.follow(job.id) as follower:
        assert await is_told(follower, JobStatus.IN_PROGRESS)
        assert await follower.next(A_MOMENT) is None
        await backend.log.append(job.id, claim.attempt, 0, one)
        assert await read_at_least(follower, len(one)) == one
        assert await follower.next(0.01) is None


async def test_after_the_ending_there_is_no_other_update(backend: Backend) -> None:
    job, _ = await ended(backend)
    async with backend.log.follow(job.id) as follower:
        await read_to_end(follower)
        assert await follower.next(A_MOMENT) is None


@pytest.mark.parametrize("ending", [COMPLETED, FAILED, CANCELLED], ids=lambda ending: str(ending.status))
@pytest.mark.parametrize("mode", ["unary", "stream"])
async def test_the_ending_says_how_it_ended(replicas: tuple[Backend, Backend], ending: Ending, mode: Mode) -> None:
    """Live and from the log alike; the result comes along where the client waits for nothing else."""
    one, other = replicas
    job = new_job(mode=mode)
    async with one.log.follow(job.id, created_here=True) as live, other.log.follow(job.id) as read:
        await one.store.create(job, body=b"{}", followed=True)
        assert await is_told(read, JobStatus.QUEUED)
        log = await perform(other, await claimed(other, job), some_frames(2), ending)
        stories = [await read_to_end(live), await read_to_end(read), await follow_to_end(other, job.id)]
    wanted = Ending(
        ending.status, b"", ending.result if mode == "unary" else None, usage=ending.usage, error=ending.error
    )
    assert [story.ending for story in stories] == [wanted] * 3
    assert [story.data for story in stories] == [log] * 3


async def test_an_ending_without_frames_is_told(backend: Backend) -> None:
    """A unary job that was not logged: only the ending is written."""
    job = new_job(mode="unary")
    async with backend.log.follow(job.id, created_here=True) as follower:
        await backend.store.create(job, body=b"{}", followed=True)
        claim = await claimed(backend, job)
        await backend.store.finish(job.id, claim.attempt, 0, Ending(JobStatus.COMPLETED, b"", b"{}", usage={"n": 1}))
        story = await read_to_end(follower)
    assert story.data == b""
    assert story.ending == Ending(JobStatus.COMPLETED, b"", b"{}", usage={"n": 1})


async def test_the_second_attempt_continues_the_same_log(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job, lost = await started(one, owner="dead")
    async with other.log.follow(job.id) as follower:
        size = await write(one, lost, some_frames(3))
        claim = await claimed(one, job, "worker-2", lost="dead")
        assert claim.offset == size
        log = await perform(one, claim, some_frames(3, start=3))
        assert (await read_to_end(follower)).data == b"".join(some_frames(3)) + log


async def test_following_what_is_not_there_is_gone(backend: Backend) -> None:
    async with backend.log.follow(new_job_id()) as follower:
        for _ in range(2):
            with pytest.raises(Gone):
                await follower.next(PATIENCE)


async def test_following_expired_data_is_gone(backend: Backend) -> None:
    job, _ = await ended(backend, retention=A_MOMENT)
    await wait_until(lambda: expired(backend, job.id))
    async with backend.log.follow(job.id) as follower:
        with pytest.raises(Gone):
            await follower.next(PATIENCE)
    assert await backend.log.read(job.id) == b""


async def expired(backend: Backend, job_id: str) -> bool:
    return await backend.store.get(job_id) is None


async def test_close_wakes_the_reader(backend: Backend) -> None:
    job, _ = await started(backend)
    async with backend.log.follow(job.id) as follower:
        assert await is_told(follower, JobStatus.IN_PROGRESS)
        reading = asyncio.create_task(follower.next())
        await asyncio.wait([reading], timeout=0.05)
        follower.close()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(FollowerClosed):
                await reading
        with pytest.raises(FollowerClosed):
            await follower.next()


async def test_a_follower_that_leaves_does_not_hinder_the_others(backend: Backend) -> None:
    job, claim = await started(backend)
    async with backend.log.follow(job.id) as stays:
        async with backend.log.follow(job.id) as leaves:
            assert await is_told(leaves, JobStatus.IN_PROGRESS)
        log = await perform(backend, claim, some_frames(3))
        assert (await read_to_end(stays)).data == log
    assert log.endswith(DONE)


async def test_whether_anybody_follows_is_known_to_all(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = new_job()
    async with one.log.follow(job.id, created_here=True):
        await one.store.create(job, body=b"{}", followed=True)
        assert await other.log.followed(job.id)
    await wait_until(lambda: nobody_follows(other, job.id))
    async with other.log.follow(job.id) as follower:
        await follower.next(A_MOMENT)
        assert await one.log.followed(job.id)


async def nobody_follows(backend: Backend, job_id: str) -> bool:
    return not await backend.log.followed(job_id)


@pytest.mark.parametrize("kind", ["distributed"], indirect=True)
async def test_a_replica_that_is_gone_follows_nothing(backend: Backend, maker: Maker) -> None:
    job = new_job()
    async with maker() as gone:
        await gone.store.create(job, body=b"{}", followed=True)
        assert await backend.log.followed(job.id)
    await wait_until(lambda: nobody_follows(backend, job.id))
