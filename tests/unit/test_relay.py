"""Sending from where bytes arrive: at once where the server takes them, and to the end by whoever waits where not."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Message

from producer.http.eager_send import Begun, EagerSender


class Server:
    """Takes messages at once, unless it is busy: then those wait their turn."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.free = asyncio.Event()
        self.free.set()

    async def send(self, message: Message) -> None:
        await self.free.wait()
        self.taken.append(message["body"])


async def test_a_server_that_takes_it_at_once_has_it_when_push_returns() -> None:
    server = Server()
    relay = EagerSender(server.send)
    assert relay.push(b"one")
    assert server.taken == [b"one"]
    await relay.settle()
    assert server.taken == [b"one"]


async def test_what_a_server_does_not_take_at_once_is_sent_by_whoever_settles() -> None:
    server = Server()
    server.free.clear()
    relay = EagerSender(server.send)
    assert not relay.push(b"one")
    settling = asyncio.create_task(relay.settle())
    await asyncio.wait([settling], timeout=0)
    assert server.taken == []
    server.free.set()
    await settling
    assert server.taken == [b"one"]
    assert relay.push(b"two")


async def test_an_error_is_raised_where_it_is_waited_for() -> None:
    async def send(_: Message) -> None:
        raise RuntimeError("broken")

    relay = EagerSender(send)
    assert not relay.push(b"one")
    with pytest.raises(RuntimeError, match="broken"):
        await relay.settle()


async def twice(pause: Callable[[], Awaitable[object]], seen: list[str]) -> None:
    await pause()
    seen.append("once")
    await pause()
    seen.append("twice")


async def test_it_goes_on_through_several_waits() -> None:
    seen: list[str] = []
    begun = Begun(twice(lambda: asyncio.sleep(0), seen))
    assert not begun.over
    await begun
    assert begun.over
    assert seen == ["once", "twice"]


async def test_whoever_waits_for_it_can_be_cancelled() -> None:
    seen: list[str] = []
    begun = Begun(twice(asyncio.Event().wait, seen))
    waiting = asyncio.ensure_future(wait_for(begun))
    await asyncio.wait([waiting], timeout=0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert seen == []


async def wait_for(begun: Begun) -> None:
    await begun
