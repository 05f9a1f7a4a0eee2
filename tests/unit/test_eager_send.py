"""EagerSender writes at once where the server takes the bytes; `flush` finishes a write that had to wait."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Message

from producer.http.eager_send import EagerAwaitable, EagerSender


class Server:
    """Takes messages at once, unless it is busy: then they wait."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.free = asyncio.Event()
        self.free.set()

    async def send(self, message: Message) -> None:
        await self.free.wait()
        self.taken.append(message["body"])


async def test_a_server_that_takes_it_at_once_has_it_when_push_returns() -> None:
    server = Server()
    sender = EagerSender(server.send)
    assert sender.push(b"one")
    assert server.taken == [b"one"]
    await sender.flush()
    assert server.taken == [b"one"]


async def test_what_a_server_does_not_take_at_once_is_sent_by_flush() -> None:
    server = Server()
    server.free.clear()
    sender = EagerSender(server.send)
    assert not sender.push(b"one")
    flushing = asyncio.create_task(sender.flush())
    await asyncio.wait([flushing], timeout=0)
    assert server.taken == []
    server.free.set()
    await flushing
    assert server.taken == [b"one"]
    assert sender.push(b"two")


async def test_an_error_is_raised_where_it_is_waited_for() -> None:
    async def send(_: Message) -> None:
        raise RuntimeError("broken")

    sender = EagerSender(send)
    assert not sender.push(b"one")
    with pytest.raises(RuntimeError, match="broken"):
        await sender.flush()


async def twice(pause: Callable[[], Awaitable[object]], seen: list[str]) -> None:
    await pause()
    seen.append("once")
    await pause()
    seen.append("twice")


async def test_it_goes_on_through_several_waits() -> None:
    seen: list[str] = []
    started = EagerAwaitable(twice(lambda: asyncio.sleep(0), seen))
    assert not started.done
    await started
    assert started.done
    assert seen == ["once", "twice"]


async def test_the_task_that_awaits_it_can_be_cancelled() -> None:
    seen: list[str] = []
    started = EagerAwaitable(twice(asyncio.Event().wait, seen))
    waiting = asyncio.ensure_future(wait_for(started))
    await asyncio.wait([waiting], timeout=0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert seen == []


async def wait_for(started: EagerAwaitable) -> None:
    await started
