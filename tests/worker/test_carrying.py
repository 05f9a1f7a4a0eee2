"""The worker runs the job that is next in the fair queue, under any delivery."""

from collections.abc import AsyncGenerator

import pytest
from structlog.testing import capture_logs

from shared.job import Job, JobStatus
from tests.contract.performers import CANCELLED, record_of
from tests.support.wait_until import wait_until
from tests.worker.scripted import ANSWER, Bench, open_bench, text_of
from tests.worker.test_consumer import over, taken_up, working


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    async with open_bench(concurrency=1, continues_text=True) as bench:
        yield bench


async def submits(bench: Bench, tenant: str, count: int, says: str = "answer") -> list[Job]:
    return [await bench.submit(says, tenant=tenant, tokens=100) for _ in range(count)]


async def started(bench: Bench, jobs: list[Job]) -> list[str]:
    """Returns the jobs' tenants in the order of their starts."""
    records = [await record_of(bench.backend, job.id) for job in jobs]
    return [record.tenant for record in sorted(records, key=lambda record: record.started_at or 0)]


async def test_another_tenants_job_waits_for_one_slot_only(bench: Bench) -> None:
    jobs = await submits(bench, "flood", 1, "hang") + await submits(bench, "flood", 30)
    async with working(bench):
        await taken_up(bench, 1)
        jobs += await submits(bench, "late", 1)
        bench.engine.hold.set()
        await over(bench, *jobs)
    assert (await started(bench, jobs)).index("late") == 1
    assert await bench.waiting() == 0
    assert {(await bench.record(job)).attempt for job in jobs} == {1}


async def test_two_tenants_with_many_jobs_alternate(bench: Bench) -> None:
    jobs = await submits(bench, "a", 20) + await submits(bench, "b", 20)
    async with working(bench):
        await over(bench, *jobs)
    order = await started(bench, jobs)
    assert all(abs(order[:end].count("a") - order[:end].count("b")) <= 2 for end in range(41)), order


async def test_a_piggybacked_job_that_fails_once_is_tried_again(bench: Bench) -> None:
    jobs = await submits(bench, "flood", 1, "hang") + await submits(bench, "flood", 5)
    async with working(bench):
        await taken_up(bench, 1)
        (unlucky,) = await submits(bench, "late", 1, "fail once in the middle")
        bench.engine.hold.set()
        await over(bench, unlucky, *jobs)
    record = await bench.record(unlucky)
    assert (record.status, record.tries) == (JobStatus.COMPLETED, 1)
    assert text_of(await bench.frames(unlucky)) == "".join(ANSWER)


async def test_a_drained_worker_requeues_the_piggybacked_job_and_its_host(bench: Bench) -> None:
    (first, *_), (carried,) = await submits(bench, "flood", 4), await submits(bench, "late", 1, "hang")
    async with working(bench, drain=0.0):
        await over(bench, first)
        await wait_until(lambda: bench.has_said(carried.id, ANSWER[1]), "the late one to run")
    assert ((await bench.record(carried)).status, await bench.waiting()) == (JobStatus.QUEUED, 4)

    bench.engine.hold.set()
    async with working(bench):
        await over(bench, carried)
    record = await bench.record(carried)
    assert (record.attempt, record.tries) == (2, 0)
    assert text_of(await bench.frames(carried)) == "".join(ANSWER)


async def test_the_hosts_deadline_passes_during_a_piggybacked_job(bench: Bench) -> None:
    (first,) = await submits(bench, "flood", 1, "hang")
    async with working(bench):
        await taken_up(bench, 1)
        short = await bench.submit("answer", tenant="flood", tokens=100, deadline=3.0)
        (carried,) = await submits(bench, "late", 1, "think")
        await bench.backend.store.cancel(first.id, CANCELLED)
        assert await over(bench, short) == [JobStatus.EXPIRED]
        record = await bench.record(short)
        assert record.error is not None
        assert record.error["code"] == "deadline_exceeded_in_queue"
        bench.engine.hold.set()
        await over(bench, carried)


async def test_a_failing_fair_queue_runs_the_deliverys_own_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.backend.scheduler, "next_job", broken)
    jobs = await submits(bench, "a", 3)
    with capture_logs() as logs:
        async with working(bench):
            await over(bench, *jobs)
    assert "fair_queue.crashed" in [line["event"] for line in logs]
