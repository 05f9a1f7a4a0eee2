"""Frames of one channel leave together, in order, and none is lost where the connection has enough to write."""

import asyncio
import gc
import weakref
from typing import Any

from aiormq.abc import ChannelFrame

from shared.backends.rabbitmq.gathered import GatheredFrames
from tests.support.wait_until import wait_until

Frames = asyncio.Queue[ChannelFrame]


def frame(payload: bytes, *, waited_for: bool = False) -> ChannelFrame:
    future = asyncio.get_running_loop().create_future() if waited_for else None
    return ChannelFrame(payload=payload, should_close=False, drain_future=future)


def gathering(queue: Frames, seconds: float, over: asyncio.Future[Any] | None = None) -> GatheredFrames:
    loop = asyncio.get_running_loop()
    return GatheredFrames(queue, seconds, loop.create_future if over is None else lambda: over)


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


async def test_a_connection_that_died_full_is_offered_nothing_more() -> None:
    over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    queue: Frames = asyncio.Queue(maxsize=1)
    queue.put_nowait(frame(b"never taken"))
    gathered = gathering(queue, 0.001, over)
    await gathered.put(frame(b"a"))
    await asyncio.sleep(0)
    over.set_result(None)
    dropped = weakref.ref(gathered)
    del gathered
    await wait_until(lambda: gc.collect() >= 0 and dropped() is None, "no timer holds what had gathered")


async def test_nothing_follows_the_answer_to_a_closed_channel() -> None:
    queue: Frames = asyncio.Queue()
    gathered = gathering(queue, 0.001)
    await gathered.put(frame(b"ack"))
    gathered.put_nowait(frame(b"close-ok"))
    gathered.flush()
    assert await next_payload(queue) == b"close-ok"
    assert queue.empty()


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
