"""A follower against a live path that loses, repeats, reorders and delays: exactly the log's bytes, and one ending."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.backends.follower import (
    BUFFER_LIMIT,
    READ_LEAST,
    READ_MOST,
    READ_SHARE,
    LogFollower,
    Snapshot,
)
from shared.backends.follower_hub import FollowerHub
from shared.errors import BackendUnavailable, Gone, LogLost
from shared.job import JobStatus
from shared.ports import Ending, FollowerClosed, Sink, Update

JOB = "chatcmpl-1"
COMPLETED = Ending(JobStatus.COMPLETED, usage={"n": 1})
PATIENCE = 5.0


@dataclass
class Stage:
    """The log as it grows, and the live messages that tell of it."""

    log: bytes = b""
    status: JobStatus = JobStatus.QUEUED
    ending: Ending | None = None
    gone: bool = False
    failures: int = 0
    reads: int = 0
    limit: int = READ_MOST
    hub: FollowerHub = field(default_factory=FollowerHub)
    during_read: Iterator[None] | None = None

    def follow(self, offset: int = 0, *, stale: bool = True) -> LogFollower:
        follower = LogFollower(JOB, offset, self.read, stale=stale)
        self.hub.add(follower)
        return follower

    async def read(self, job_id: str, offset: int, limit: int) -> Snapshot | None:
        """The answer is what the log was when it was read; things happen while it travels."""
        self.reads += 1
        if self.failures:
            self.failures -= 1
            raise BackendUnavailable("no answer")
        if self.gone:
            return None
        answer = Snapshot(self.log[offset:][: min(limit, self.limit)], len(self.log), self.status, ending=self.ending)
        if self.during_read is not None:
            next(self.during_read, None)
        return answer

    def append(self, data: bytes, *, tell: bool = True) -> None:
        offset, self.log = len(self.log), self.log + data
        if tell:
            self.hub.deliver(JOB, offset, data)

    def move(self, status: JobStatus) -> None:
        self.status = status
        self.hub.move(JOB, status)

    def end(self, *, tell: bool = True) -> None:
        self.ending, self.status = COMPLETED, COMPLETED.status
        if tell:
            self.hub.end(JOB, len(self.log), COMPLETED)


async def read_to_end(follower: LogFollower) -> bytes:
    data = b""
    async with asyncio.timeout(PATIENCE):
        while True:
            update = await follower.next()
            assert update is not None
            data += update.data
            if update.ending is not None:
                assert update.status is update.ending.status is COMPLETED.status
                return data


# ── whatever the live path does ──

Fault = Literal["none", "lost", "twice", "late"]
FAULTS = st.sampled_from(["none", "none", "lost", "twice", "late"])


@dataclass(frozen=True)
class Step:
    """What happens at a time: bytes or a status, told faultily; and what the reader or the link does meanwhile."""

    size: int
    fault: Fault
    status: bool
    link_breaks: bool
    reader_comes: bool
    read_fails: bool


STEPS = st.builds(
    Step,
    size=st.sampled_from([1, 10, 100, BUFFER_LIMIT // 3]),
    fault=FAULTS,
    status=st.booleans(),
    link_breaks=st.sampled_from([False, False, False, True]),
    reader_comes=st.booleans(),
    read_fails=st.sampled_from([False, False, False, True]),
)


class LivePath:
    """Performs the steps: to the log at once, to the hub as faultily as they say."""

    def __init__(self, stage: Stage, steps: list[Step]) -> None:
        self._stage = stage
        self._late: list[tuple[int, bytes] | JobStatus] = []
        self._written = 0
        self.steps = iter(steps)

    def perform(self, step: Step) -> None:
        if step.status:
            self._tell(step.fault, JobStatus.IN_PROGRESS)
            self._stage.status = JobStatus.IN_PROGRESS
        data = bytes([self._written % 251]) * step.size
        self._written += 1
        offset = len(self._stage.log)
        self._stage.append(data, tell=False)
        self._tell(step.fault, (offset, data))
        if step.link_breaks:
            self._stage.hub.distrust_all()

    def perform_next(self) -> Iterator[None]:
        """For the reads: something happens while each of them is under way."""
        while True:
            if (step := next(self.steps, None)) is not None:
                self.perform(step)
            yield

    def finish(self, end_lost: bool) -> None:
        for step in self.steps:
            self.perform(step)
        self._stage.end(tell=not end_lost)
        self._tell("none", None)
        if end_lost:
            self._stage.hub.distrust_all()
        else:
            self._stage.hub.end(JOB, len(self._stage.log), COMPLETED)

    def _tell(self, fault: Fault, message: "tuple[int, bytes] | JobStatus | None") -> None:
        """A late message comes after the next one, or after the end."""
        if message is not None and fault == "late":
            self._late.append(message)
            return
        if message is not None and fault != "lost":
            for _ in range(2 if fault == "twice" else 1):
                self._deliver(message)
        late, self._late = self._late, []
        for each in late:
            self._deliver(each)

    def _deliver(self, message: tuple[int, bytes] | JobStatus) -> None:
        if isinstance(message, JobStatus):
            self._stage.hub.move(JOB, message)
        else:
            self._stage.hub.deliver(JOB, *message)


@settings(deadline=None, max_examples=300)
@given(
    steps=st.lists(STEPS, max_size=12),
    offset=st.sampled_from([0, 0, 1, 50, 1000]),
    created_here=st.booleans(),
    busy_reads=st.booleans(),
    end_lost=st.booleans(),
    limit=st.sampled_from([READ_MOST, 64]),
)
async def test_every_byte_comes_once_and_in_order(
    steps: list[Step], offset: int, created_here: bool, busy_reads: bool, end_lost: bool, limit: int
) -> None:
    limit = limit if all(step.size <= 100 for step in steps) else READ_MOST
    stage = Stage(limit=limit)
    follower = stage.follow(0 if created_here else offset, stale=not created_here)
    path = LivePath(stage, steps)
    stage.during_read = path.perform_next() if busy_reads else None
    data = b""
    for step in path.steps:
        path.perform(step)
        stage.failures = int(step.read_fails)
        if step.reader_comes:
            data += await read_some(follower)
    stage.failures = 0
    path.finish(end_lost)
    data += await read_to_end(follower)
    assert data == stage.log[0 if created_here else offset :]
    await expect_silence(stage, follower)


@settings(deadline=None, max_examples=300)
@given(
    steps=st.lists(st.tuples(STEPS, st.integers(0, 3)), max_size=12),
    fills=st.sampled_from([1, 2, 3, 100]),
    end_lost=st.booleans(),
)
async def test_every_byte_comes_once_and_in_order_past_a_reader(
    steps: list[tuple[Step, int]], fills: int, end_lost: bool
) -> None:
    """A sink that is full with every so manieth piece, and a reader that gets a few turns after each step."""
    stage = Stage()
    follower = stage.follow(stale=False)
    path = LivePath(stage, [step for step, _ in steps])
    pieces: list[bytes] = []

    def sink(data: bytes) -> bool:
        pieces.append(data)
        return len(pieces) % fills > 0

    async def read() -> None:
        while True:
            update = await follower.next(PATIENCE, sink)
            assert update is not None
            pieces.append(update.data)
            if update.ending is not None:
                return

    reading = asyncio.create_task(read())
    for (_, turns), step in zip(steps, path.steps, strict=False):
        path.perform(step)
        for _ in range(turns):
            await asyncio.wait([reading], timeout=0)
    path.finish(end_lost)
    await asyncio.wait_for(reading, PATIENCE)
    assert b"".join(pieces) == stage.log


async def read_some(follower: LogFollower) -> bytes:
    try:
        update = await follower.next(0.0)
    except BackendUnavailable:
        return b""
    assert update is None or update.ending is None
    return update.data if update is not None else b""


async def expect_silence(stage: Stage, follower: LogFollower) -> None:
    """After the ending there is no other update, whatever still arrives."""
    stage.hub.deliver(JOB, 0, stage.log)
    stage.hub.move(JOB, JobStatus.IN_PROGRESS)
    stage.hub.end(JOB, len(stage.log), COMPLETED)
    stage.hub.distrust_all()
    assert await follower.next(0.0) is None


# ── one by one ──


async def test_the_creator_reads_nothing_from_the_log() -> None:
    stage = Stage()
    follower = stage.follow(stale=False)
    stage.move(JobStatus.IN_PROGRESS)
    stage.append(b"one")
    stage.append(b"two")
    stage.end()
    assert await follower.next() == Update(b"onetwo", JobStatus.COMPLETED, COMPLETED)
    assert stage.reads == 0


async def test_bytes_go_to_a_sink_within_the_turn() -> None:
    stage, pieces = Stage(), list[bytes]()
    follower = stage.follow(stale=False)
    stage.move(JobStatus.IN_PROGRESS)
    await follower.next()
    reading = asyncio.create_task(follower.next(PATIENCE, taken_by(pieces)))
    await asyncio.wait([reading], timeout=0)
    stage.append(b"one")
    stage.append(b"two")
    assert pieces == [b"one", b"two"]
    stage.end()
    assert await reading == Update(b"", JobStatus.COMPLETED, COMPLETED)
    assert stage.reads == 0


async def test_a_full_sink_ends_the_wait() -> None:
    stage, pieces = Stage(), list[bytes]()
    follower = stage.follow(stale=False)
    reading = asyncio.create_task(follower.next(PATIENCE, taken_by(pieces, full=True)))
    await asyncio.wait([reading], timeout=0)
    stage.append(b"one")
    stage.append(b"two")
    assert await reading == Update(b"two", JobStatus.QUEUED)
    assert pieces == [b"one"]


async def test_a_wait_with_a_sink_ends_so_long_after_the_last_piece() -> None:
    stage, pieces = Stage(), list[bytes]()
    follower = stage.follow(stale=False)
    loop = asyncio.get_running_loop()
    began, last = loop.time(), 0.0
    reading = asyncio.create_task(follower.next(0.05, taken_by(pieces)))
    while not reading.done() and loop.time() < began + 0.2:
        await asyncio.wait([reading], timeout=0.001)
        if loop.time() < began + 0.15:
            stage.append(b"more")
            last = loop.time()
    assert await reading is None
    assert loop.time() - last >= 0.05


async def test_a_closed_follower_hands_nothing_on() -> None:
    stage, pieces = Stage(), list[bytes]()
    follower = stage.follow(stale=False)
    reading = asyncio.create_task(follower.next(PATIENCE, taken_by(pieces)))
    await asyncio.wait([reading], timeout=0)
    follower.close()
    stage.append(b"late")
    with pytest.raises(FollowerClosed):
        await reading
    assert pieces == []


def taken_by(pieces: list[bytes], *, full: bool = False) -> Sink:
    def sink(data: bytes) -> bool:
        pieces.append(data)
        return not full

    return sink


async def test_nothing_is_told_before_there_is_something() -> None:
    follower = Stage().follow(stale=False)
    assert await follower.next(0.0) is None


async def test_a_late_status_does_not_undo_the_ending() -> None:
    """The log was read after a move whose live message is still on its way."""
    stage = Stage(log=b"all", status=JobStatus.COMPLETED, ending=COMPLETED)
    follower = stage.follow()
    assert await follower.next() == Update(b"all", JobStatus.COMPLETED, COMPLETED)
    stage.hub.move(JOB, JobStatus.IN_PROGRESS)
    assert await follower.next(0.0) is None


async def test_a_slow_readers_buffer_is_bounded() -> None:
    stage = Stage()
    follower = stage.follow(stale=False)
    for number in range(40):
        stage.append(bytes([number]) * (BUFFER_LIMIT // 8))
    stage.end()
    assert await read_to_end(follower) == stage.log
    assert stage.reads >= 5


async def test_reads_grow_with_what_the_reader_has_taken() -> None:
    """A replay of a long log has few reads; a reader that takes nothing has only its first piece in memory."""
    stage = Stage(log=bytes(20_000_000), status=JobStatus.COMPLETED, ending=COMPLETED)
    follower = stage.follow()
    sizes: list[int] = []
    while (update := await follower.next(PATIENCE)) is not None:
        sizes.append(len(update.data))
        if update.ending is not None:
            break
    assert sum(sizes) == len(stage.log)
    assert sizes[0] == READ_LEAST
    assert max(sizes) == READ_MOST
    taken = 0
    for size in sizes:
        assert size <= max(READ_LEAST, taken // READ_SHARE)
        taken += size
    assert stage.reads < 200


async def test_what_has_expired_stays_gone() -> None:
    stage = Stage(gone=True)
    follower = stage.follow()
    for _ in range(2):
        with pytest.raises(Gone):
            await follower.next(PATIENCE)


async def test_a_log_that_ends_before_what_was_read_of_it_is_lost() -> None:
    """While the job runs, whoever wrote it may write it again."""
    stage = Stage(log=b"read by all")
    follower = stage.follow()
    await follower.next()
    stage.log = b"read"
    stage.hub.distrust_all()
    assert await follower.next(0.0) is None
    stage.end()
    with pytest.raises(LogLost):
        await follower.next(PATIENCE)


async def test_what_is_written_again_is_not_read_twice() -> None:
    stage = Stage(log=b"read by all")
    follower = stage.follow()
    await follower.next()
    stage.log = b"read"
    stage.append(b" by all of them")
    stage.end()
    assert await read_to_end(follower) == b" of them"


async def test_a_failed_read_is_tried_again_by_the_next_call() -> None:
    stage = Stage(log=b"all", failures=1)
    follower = stage.follow()
    with pytest.raises(BackendUnavailable):
        await follower.next()
    assert await follower.next() == Update(b"all", JobStatus.QUEUED)


async def test_a_waiting_reader_hears_of_a_broken_link() -> None:
    stage = Stage()
    follower = stage.follow(stale=False)
    reading = asyncio.create_task(follower.next(PATIENCE))
    await asyncio.wait([reading], timeout=0.01)
    stage.append(b"unheard", tell=False)
    stage.hub.distrust_all()
    assert await reading == Update(b"unheard", JobStatus.QUEUED)


async def test_close_wakes_a_waiting_reader_and_nobody_else() -> None:
    stage = Stage()
    closes, stays = stage.follow(stale=False), stage.follow(stale=False)
    reading = asyncio.create_task(closes.next())
    await asyncio.wait([reading], timeout=0.01)
    closes.close()
    with pytest.raises(FollowerClosed):
        await reading
    stage.append(b"more")
    assert await stays.next() == Update(b"more", JobStatus.QUEUED)


async def test_a_follower_that_is_closed_while_it_reads_the_log_waits_for_nothing_more() -> None:
    stage = Stage(status=JobStatus.IN_PROGRESS)
    follower = stage.follow()
    assert await follower.next() == Update(b"", JobStatus.IN_PROGRESS)

    def hang_up() -> Iterator[None]:
        follower.close()
        yield

    follower.distrust()
    stage.during_read = hang_up()
    with pytest.raises(FollowerClosed):
        async with asyncio.timeout(PATIENCE):
            await follower.next()


async def test_a_cancelled_reader_loses_nothing() -> None:
    stage = Stage()
    follower = stage.follow(stale=False)
    reading = asyncio.create_task(follower.next())
    await asyncio.wait([reading], timeout=0.01)
    stage.append(b"here")
    reading.cancel()
    await asyncio.wait([reading])
    assert await follower.next() == Update(b"here", JobStatus.QUEUED)


async def test_following_from_beyond_the_end_waits_for_it() -> None:
    stage = Stage(log=b"0123")
    follower = stage.follow(offset=6)
    assert await follower.next(0.0) == Update(b"", JobStatus.QUEUED)
    stage.append(b"456")
    stage.append(b"789")
    stage.end()
    assert await read_to_end(follower) == b"6789"


async def test_the_hub_forgets_whom_nobody_follows() -> None:
    stage = Stage()
    one, other = stage.follow(), stage.follow()
    assert len(stage.hub) == 2
    stage.hub.remove(one)
    assert JOB in stage.hub
    stage.hub.remove(other)
    assert JOB not in stage.hub
    stage.append(b"for nobody")
