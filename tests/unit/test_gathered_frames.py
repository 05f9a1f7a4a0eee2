"""Frames of one channel leave together, in order, and none is lost where the connection has enough to write."""

import asyncio

from aiormq.abc import ChannelFrame

from shared.backends.rabbitmq.gathered import GatheredFrames

Frames = asyncio.Queue[ChannelFrame]


def frame(payload: bytes, *, waited_for: bool = False) -> ChannelFrame:
    future = asyncio.get_running_loop().create_future() if waited_for else None
    return ChannelFrame(payload=payload, should_close=False, drain_future=future)


def gathering(queue: Frames, seconds: float) -> GatheredFrames:
    return GatheredFrames(queue, seconds, asyncio.get_running_loop().create_future)


async def next_payload(queue: Frames) -> bytes:
    async with asyncio.timeout(5):
        return (await queue.get()).payload


async def test_frames_of_one_turn_leave_together() -> None:
    queue: Frames = asyncio.Queue()
    gathered = gathering(queue, 0.001)
    for payload in (b"a", b"b", b"c"):
        await gathered.put(frame(payload))
    assert queue.empty()
    assert await next_payload(queue) == b"abc"


async def test_frames_that_follow_soon_wait_for_each_other() -> None:
    queue: Frames = asyncio.Queue()
    gathered = gathering(queue, 0.02)
    await gathered.put(frame(b"a"))
    assert await next_payload(queue) == b"a"
    await gathered.put(frame(b"b"))
    for _ in range(3):
        await asyncio.sleep(0)
    await gathered.put(frame(b"c"))
    assert await next_payload(queue) == b"bc"


async def test_what_somebody_waits_for_leaves_behind_what_has_gathered() -> None:
    queue: Frames = asyncio.Queue()
    gathered = gathering(queue, 60.0)
    await gathered.put(frame(b"a"))
    await gathered.put(frame(b"urgent", waited_for=True))
    assert [await next_payload(queue), await next_payload(queue)] == [b"a", b"urgent"]


async def test_a_connection_with_enough_to_write_is_offered_it_again() -> None:
    queue: Frames = asyncio.Queue(maxsize=1)
    gathered = gathering(queue, 0.001)
    queue.put_nowait(frame(b"first"))
    await gathered.put(frame(b"a"))
    await asyncio.sleep(0)
    await gathered.put(frame(b"b"))
    assert [await next_payload(queue), await next_payload(queue)] == [b"first", b"ab"]


async def test_whoever_drains_waits_until_all_is_written() -> None:
    queue: Frames = asyncio.Queue()
    gathered = gathering(queue, 60.0)
    await gathered.put(frame(b"a"))
    draining = asyncio.create_task(gathered.drain())
    assert await next_payload(queue) == b"a"
    last = await queue.get()
    assert not draining.done()
    last.drain()
    await draining
