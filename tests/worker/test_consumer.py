"""The worker: which deliveries it takes, when it takes none, and how it stops."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.job import Job, JobStatus, QueueName, Tier
from shared.ports import Backend, JobStore
from tests.contract.performers import QUEUE
from tests.support.wait_until import wait_until
from tests.worker.scripted import ANSWER, WORKER, Bench, ended_with_nothing, open_bench
from worker.worker import Worker, WorkerOptions


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    async with open_bench(concurrency=2) as bench:
        yield bench


@asynccontextmanager
async def working(
    bench: Bench, *, backend: Backend | None = None, drain: float = 5.0, lease: float = 30.0, **tiers: float
) -> AsyncGenerator[asyncio.Event]:
    """A ready worker. It stops without an error when the event is set, or at the end of the block."""
    stop = asyncio.Event()
    options = WorkerOptions(lease_seconds=lease, drain_seconds=drain, retry_backoff=0.01, **tiers)
    worker = Worker(backend or bench.backend, bench.engine, options)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(worker.run(stop))
        await worker.ready.wait()
        yield stop
        stop.set()


async def over(bench: Bench, *jobs: Job) -> list[JobStatus]:
    async def all_over() -> bool:
        return all([(await bench.record(job)).status.terminal for job in jobs])

    await wait_until(all_over, "the jobs to be over")
    return [(await bench.record(job)).status for job in jobs]


def events(logs: Sequence[Any]) -> list[str]:
    return [line["event"] for line in logs]


async def taken_up(bench: Bench, count: int) -> None:
    await wait_until(lambda: bench.engine.running == count, f"{count} answers to be under way")


async def test_no_more_jobs_are_taken_than_the_engine_has_slots(bench: Bench) -> None:
    jobs = [await bench.submit("hang") for _ in range(5)]

    async with working(bench):
        await taken_up(bench, 2)
        assert await bench.waiting() == 3
        bench.engine.hold.set()
        assert await over(bench, *jobs) == [JobStatus.COMPLETED] * 5

    assert bench.engine.most_running == 2


async def test_higher_tiers_come_first() -> None:
    tiers = (Tier.FLEX, Tier.DEFAULT, Tier.PRIORITY)
    async with open_bench(concurrency=1) as bench:
        jobs = [await bench.submit("answer", queue=QueueName(QUEUE.model, tier)) for tier in tiers]
        async with working(bench):
            await over(bench, *jobs)

        started = [(await bench.record(job)).started_at or 0 for job in jobs]
        assert started == sorted(started, reverse=True)


async def test_no_jobs_are_taken_while_the_engine_is_unhealthy(bench: Bench) -> None:
    bench.engine.fall_ill()
    job = await bench.submit("answer")

    async with working(bench):
        await wait_until(lambda: bench.engine.waiting_for_health >= 2, "the worker to have heard of it")
        assert (await bench.waiting(), bench.engine.requests) == (1, [])
        bench.engine.recover()
        assert await over(bench, job) == [JobStatus.COMPLETED]


async def test_a_worker_with_an_unhealthy_engine_is_not_ready(bench: Bench) -> None:
    async with working(bench):
        bench.engine.fall_ill()
        await wait_until(lambda: readiness_is(bench, False), "the worker to be not ready")
        bench.engine.recover()
        await wait_until(lambda: readiness_is(bench, True), "the worker to be ready again")


async def readiness_is(bench: Bench, ready: bool) -> bool:
    return [worker.ready for worker in await bench.backend.registry.workers() if worker.id != WORKER] == [ready]


async def test_a_cancel_reaches_the_engine(bench: Bench) -> None:
    job = await bench.submit("hang")

    async with working(bench):
        await wait_until(lambda: bench.has_said(job.id, ANSWER[1]), "the first words")
        await bench.backend.store.cancel(job.id, ended_with_nothing())
        assert await over(bench, job) == [JobStatus.CANCELLED]

    assert bench.engine.aborted == 1


async def test_running_jobs_finish_within_the_grace_period(bench: Bench) -> None:
    held, waiting = [await bench.submit("hang") for _ in range(2)], await bench.submit("hang")

    with capture_logs() as logs:
        async with working(bench) as stop:
            await taken_up(bench, 2)
            stop.set()
            await wait_until(lambda: "worker.draining" in events(logs), "the worker to drain")
            bench.engine.hold.set()

    assert [(await bench.record(job)).status for job in held] == [JobStatus.COMPLETED] * 2
    assert ((await bench.record(waiting)).status, await bench.waiting()) == (JobStatus.QUEUED, 1)


async def test_unfinished_jobs_are_requeued_without_counting_a_try(bench: Bench) -> None:
    job = await bench.submit("hang")

    async with working(bench, drain=0.0):
        await taken_up(bench, 1)

    record = await bench.record(job)
    assert (record.status, record.tries, await bench.waiting()) == (JobStatus.QUEUED, 0, 1)
    bench.engine.hold.set()
    async with working(bench):
        assert await over(bench, job) == [JobStatus.COMPLETED]


async def test_a_bug_in_one_job_stops_neither_the_worker_nor_the_job(bench: Bench) -> None:
    breaking = WithStore(bench.backend, BreaksOnce(bench.backend.store))
    job = await bench.submit("answer")

    with capture_logs() as logs:
        async with working(bench, backend=breaking, lease=0.2):
            assert await over(bench, job) == [JobStatus.COMPLETED]

    assert "execution.crashed" in events(logs)
    assert (await bench.record(job)).tries == 1


class BreaksOnce:
    """A store with a bug: the first `finish` raises an undeclared error."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._broken = False

    async def finish(self, *arguments: Any) -> None:
        if not self._broken:
            self._broken = True
            raise RuntimeError("a bug")
        await self._store.finish(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@dataclass
class WithStore:
    """A backend with another store."""

    _backend: Backend
    store: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)
