"""Higher tiers in a full worker: flex jobs are put back without loss and still progress."""

from collections.abc import AsyncGenerator

import pytest

from shared.job import Job, JobStatus, QueueName, Tier
from tests.contract.performers import QUEUE
from tests.support.wait_until import wait_until
from tests.worker.scripted import ANSWER, Bench, open_bench, text_of
from tests.worker.test_consumer import over, taken_up, working

FLEX, PRIORITY = (QueueName(QUEUE.model, tier) for tier in (Tier.FLEX, Tier.PRIORITY))
REPLAYED = {"response_format": {"type": "json_object"}}


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    async with open_bench(concurrency=2, continues_text=True) as bench:
        yield bench


async def begun(bench: Bench, *jobs: Job) -> None:
    for job in jobs:
        await wait_until(lambda job=job: bench.has_said(job.id, ANSWER[1]), "the first words")


async def status_is(bench: Bench, job: Job, status: JobStatus) -> bool:
    return (await bench.record(job)).status is status


@pytest.mark.parametrize("unary", [False, True], ids=["stream", "unary"])
async def test_the_youngest_flex_job_is_put_back_and_continued_later(bench: Bench, unary: bool) -> None:
    async with working(bench, reserved_slots=0.0):
        older = await bench.submit("hang", queue=FLEX)
        await begun(bench, older)
        younger = await bench.submit("hang", queue=FLEX, unary=unary)
        await begun(bench, younger)

        urgent = await bench.submit("answer")
        assert await over(bench, urgent) == [JobStatus.COMPLETED]

        assert (await bench.record(older)).attempt == 1
        await wait_until(lambda: bench.engine.asked["hang"] == 3, "the younger one to go on")
        bench.engine.hold.set()
        assert await over(bench, older, younger) == [JobStatus.COMPLETED] * 2

    record = await bench.record(younger)
    assert (record.attempt, record.tries) == (2, 0)
    assert text_of(await bench.frames(younger)) == "".join(ANSWER)
    assert bench.engine.prefixes[-1] == "".join(ANSWER[:2]), "it went on after what it had said"


async def test_as_many_flex_jobs_are_put_back_as_needed(bench: Bench) -> None:
    flex = [await bench.submit("hang", queue=FLEX) for _ in range(2)]
    async with working(bench, reserved_slots=0.0):
        await begun(bench, *flex)
        urgent = [await bench.submit("answer", queue=queue) for queue in (QUEUE, PRIORITY)]
        assert await over(bench, *urgent) == [JobStatus.COMPLETED] * 2
        bench.engine.hold.set()
        assert await over(bench, *flex) == [JobStatus.COMPLETED] * 2
    assert all([(await bench.record(job)).attempt <= 2 for job in flex])


async def test_a_job_that_only_a_replay_could_continue_is_not_put_back(bench: Bench) -> None:
    replayed = await bench.submit("hang", queue=FLEX, request=REPLAYED)
    async with working(bench, reserved_slots=0.0):
        await begun(bench, replayed)
        continued = await bench.submit("hang", queue=FLEX)
        await begun(bench, continued)
        for _ in range(2):
            assert await over(bench, await bench.submit("answer")) == [JobStatus.COMPLETED]
            await wait_until(lambda: taken_up_by(bench, 2), "the other one to go on")
        bench.engine.hold.set()
        await over(bench, replayed, continued)
    assert ((await bench.record(replayed)).attempt, (await bench.record(continued)).attempt) == (1, 3)


def taken_up_by(bench: Bench, count: int) -> bool:
    return bench.engine.running == count


async def test_a_job_is_put_back_twice_at_most(bench: Bench) -> None:
    """The third attempt is not put back; the job of the higher tier waits."""
    async with open_bench(concurrency=1, continues_text=True) as bench:
        flex = await bench.submit("hang", queue=FLEX)
        async with working(bench):
            await begun(bench, flex)
            for attempts in (2, 3):
                assert await over(bench, await bench.submit("answer")) == [JobStatus.COMPLETED]
                await wait_until(lambda attempts=attempts: attempt_is(bench, flex, attempts), "the next attempt")
                await taken_up(bench, 1)
            urgent = await bench.submit("answer")
            await wait_until(lambda: is_held(bench), "the worker to be full for good")
            assert await status_is(bench, urgent, JobStatus.QUEUED)
            bench.engine.hold.set()
            assert await over(bench, flex, urgent) == [JobStatus.COMPLETED] * 2
        assert (await bench.record(flex)).attempt == 3


async def attempt_is(bench: Bench, job: Job, attempt: int) -> bool:
    record = await bench.record(job)
    return (record.attempt, record.status) == (attempt, JobStatus.IN_PROGRESS)


async def is_held(bench: Bench) -> bool:
    return await bench.waiting() == 1


async def test_a_flood_of_flex_leaves_the_reserved_slots(bench: Bench) -> None:
    flex = [await bench.submit("hang", queue=FLEX) for _ in range(3)]
    async with working(bench, reserved_slots=0.5):
        await taken_up(bench, 1)
        assert await over(bench, await bench.submit("answer")) == [JobStatus.COMPLETED]
        assert bench.engine.most_running == 2
        assert (await bench.record(flex[0])).attempt == 1, "nobody had to make room"
        bench.engine.hold.set()
        assert await over(bench, *flex) == [JobStatus.COMPLETED] * 3


async def test_flex_that_waited_too_long_gets_a_slot_and_keeps_it() -> None:
    async with open_bench(concurrency=1, continues_text=True) as bench:
        flex = await bench.submit("hang", queue=FLEX)
        urgent = [await bench.submit("answer") for _ in range(3)]
        async with working(bench, flex_patience=0.0):
            await begun(bench, flex)
            waiting = [job for job in urgent if not (await bench.record(job)).status.terminal]
            assert len(waiting) == 2, "one was first"
            bench.engine.hold.set()
            await over(bench, flex, *urgent)
        assert (await bench.record(flex)).attempt == 1


async def test_a_flex_job_without_frames_can_always_be_put_back() -> None:
    async with open_bench(concurrency=1) as bench:
        flex = await bench.submit("think", queue=FLEX, request=REPLAYED)
        async with working(bench):
            await taken_up(bench, 1)
            assert await over(bench, await bench.submit("answer")) == [JobStatus.COMPLETED]
            bench.engine.hold.set()
            assert await over(bench, flex) == [JobStatus.COMPLETED]
        assert (await bench.record(flex)).tries == 0
