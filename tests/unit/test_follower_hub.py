"""A job with many followers is told slice by slice: each hears everything in order, and others run in between."""

import asyncio

from shared.backends.follower import LogFollower, Snapshot
from shared.backends.follower_hub import BACKLOG_LIMIT, FEW, SLICE, FollowerHub
from shared.job import JobStatus
from shared.ports import Ending
from tests.support.wait_until import wait_until

ENDED = Ending(JobStatus.COMPLETED)


class Recorder(LogFollower):
    """Writes down what it is told."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, 0, never_read, stale=False)
        self.bytes = b""
        self.told: list[str] = []

    def deliver(self, offset: int, data: bytes) -> None:
        assert offset == len(self.bytes)
        self.bytes += data

    def move(self, status: JobStatus) -> None:
        self.told.append(f"{status} at {len(self.bytes)}")

    def end(self, size: int, ending: Ending) -> None:
        self.told.append(f"ended at {len(self.bytes)}")

    def distrust(self) -> None:
        self.told.append("distrust")


async def never_read(job_id: str, offset: int, limit: int) -> Snapshot | None:
    raise AssertionError


def followed(hub: FollowerHub, job_id: str, count: int) -> list[Recorder]:
    followers = [Recorder(job_id) for _ in range(count)]
    for each in followers:
        hub.add(each)
    return followers


async def test_few_followers_are_told_at_once() -> None:
    hub = FollowerHub()
    followers = followed(hub, "a", FEW)
    hub.deliver("a", 0, b"xyz")
    assert [each.bytes for each in followers] == [b"xyz"] * FEW


async def test_many_followers_hear_everything_in_order_while_others_are_told_at_once() -> None:
    hub = FollowerHub()
    many, few = followed(hub, "a", 10 * SLICE), followed(hub, "b", 1)
    hub.deliver("a", 0, b"one")
    hub.move("a", JobStatus.IN_PROGRESS)
    hub.deliver("a", 3, b"two")
    hub.deliver("a", 6, b"three")
    hub.end("a", 11, ENDED)
    hub.deliver("b", 0, b"at once")
    assert few[0].bytes == b"at once"
    told = 0
    while told < len(many):
        await asyncio.sleep(0)
        now = sum(bool(each.bytes) for each in many)
        assert now - told <= SLICE
        told = now
    await wait_until(lambda: all(len(each.told) == 2 for each in many), "all to be told of the end")
    assert {each.bytes for each in many} == {b"onetwothree"}
    assert {tuple(each.told) for each in many} == {("in_progress at 3", "ended at 11")}


async def test_two_jobs_with_many_followers_take_turns() -> None:
    hub = FollowerHub()
    first, second = followed(hub, "a", 10 * SLICE), followed(hub, "b", 10 * SLICE)
    hub.deliver("a", 0, b"x")
    hub.deliver("b", 0, b"x")
    await asyncio.sleep(0)
    assert sum(bool(each.bytes) for each in first) == sum(bool(each.bytes) for each in second) == SLICE // 2


async def test_what_waits_is_bounded_and_read_from_the_log_beyond_that() -> None:
    hub = FollowerHub()
    followers = followed(hub, "a", 2 * SLICE)
    for number in range(3):
        hub.deliver("a", number * BACKLOG_LIMIT // 2, bytes(BACKLOG_LIMIT // 2))
    await wait_until(lambda: all(each.told for each in followers), "all to be told")
    assert {tuple(each.told) for each in followers} == {("distrust",)}


async def test_a_job_whose_followers_have_left_is_forgotten() -> None:
    hub = FollowerHub()
    followers = followed(hub, "a", 2 * SLICE)
    hub.deliver("a", 0, b"x")
    for each in followers:
        hub.remove(each)
    await asyncio.sleep(0)
    assert "a" not in hub
    (newcomer,) = followed(hub, "a", 1)
    hub.deliver("a", 0, b"x")
    assert newcomer.bytes == b"x"
