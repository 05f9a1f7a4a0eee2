"""Reads of logs: a few at a time, in turns of jobs; those that wait at the same place share one."""

import asyncio
from dataclasses import dataclass, field

import pytest

from shared.backends.fair_reads import MOST, SHARERS, FairReads
from shared.backends.follower import Snapshot
from shared.errors import BackendUnavailable
from shared.job import JobStatus
from tests.support.wait_until import wait_until


@dataclass
class SlowLog:
    """Answers the reads of a job when `let` is told so."""

    asked: list[tuple[str, int]] = field(default_factory=list)
    open: list[asyncio.Future[None]] = field(default_factory=list)

    async def read(self, job_id: str, offset: int, limit: int) -> Snapshot | None:
        self.asked.append((job_id, offset))
        gate = asyncio.get_running_loop().create_future()
        self.open.append(gate)
        await gate
        return Snapshot(job_id.encode(), offset, JobStatus.QUEUED)

    def let(self, error: Exception | None = None) -> None:
        gate = self.open.pop(0)
        gate.set_result(None) if error is None else gate.set_exception(error)


def reading(reads: FairReads, job_id: str, *offsets: int) -> list[asyncio.Task[Snapshot | None]]:
    return [asyncio.create_task(reads.read(job_id, offset, 100)) for offset in offsets]


async def test_a_thousand_readers_of_one_job_read_a_few_at_a_time_and_share() -> None:
    log = SlowLog()
    reads = FairReads(log.read)
    readers = reading(reads, "a", *([0] * 1000))
    await wait_until(lambda: len(log.open) == MOST, "the reads to begin")
    while not all(each.done() for each in readers):
        assert len(log.open) <= MOST
        if log.open:
            log.let()
        await asyncio.sleep(0)
    assert {each.result() for each in readers} == {Snapshot(b"a", 0, JobStatus.QUEUED)}
    assert len(log.asked) == MOST + (1000 - MOST) // SHARERS


async def test_another_jobs_reader_does_not_wait_for_all_of_them() -> None:
    log = SlowLog()
    reads = FairReads(log.read)
    many = reading(reads, "a", *range(100))
    await wait_until(lambda: len(log.open) == MOST, "the reads to begin")
    (other,) = reading(reads, "b", 0)
    await asyncio.sleep(0)
    for _ in range(3):
        log.let()
    await wait_until(lambda: ("b", 0) in log.asked, "the other job's turn")
    assert len(log.asked) <= MOST + 3
    while not (other.done() and all(each.done() for each in many)):
        if log.open:
            log.let()
        await asyncio.sleep(0)


async def test_a_store_that_is_away_fails_those_that_wait_with_it() -> None:
    log = SlowLog()
    reads = FairReads(log.read)
    readers = reading(reads, "a", *range(50))
    await wait_until(lambda: len(log.open) == MOST, "the reads to begin")
    log.let(BackendUnavailable("no answer"))
    waiting = readers[MOST:]
    await wait_until(lambda: all(each.done() for each in waiting), "the waiting reads to fail")
    assert all(isinstance(each.exception(), BackendUnavailable) for each in waiting)
    for _ in range(MOST - 1):
        log.let()
    await asyncio.gather(*readers, return_exceptions=True)
    (again,) = reading(reads, "a", 7)
    await wait_until(lambda: log.open, "the next read")
    log.let()
    assert await again is not None


async def test_a_reader_that_leaves_does_not_take_the_read_with_it() -> None:
    log = SlowLog()
    reads = FairReads(log.read)
    running = reading(reads, "a", *range(MOST))
    await wait_until(lambda: len(log.open) == MOST, "the reads to begin")
    leaver, stayer = reading(reads, "b", 5, 5)
    await asyncio.sleep(0)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    while not stayer.done():
        if log.open:
            log.let()
        await asyncio.sleep(0)
    assert (await stayer) == Snapshot(b"b", 5, JobStatus.QUEUED)
    await asyncio.gather(*running)
