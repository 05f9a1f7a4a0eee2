"""What a stream's client gets where its follower fails while bytes are still on their way to it."""

import asyncio
from typing import Any, cast

from starlette.types import Message

from producer.http.answers import StreamAnswer
from producer.jobs.waiting_call import WaitingCall
from shared.errors import LogLost
from shared.job import JobStatus
from shared.ports import Sink, Update


class LosesItsLog:
    """A client whose follower hands on a piece that the server does not take at once, and then loses its log."""

    def __init__(self, free: asyncio.Event) -> None:
        self._free = free

    def begin(self) -> dict[str, str]:
        return {}

    async def next(self, seconds: float, sink: Sink | None = None) -> Update:
        if sink is None:
            return Update(b"data: 1\n\n", JobStatus.IN_PROGRESS)
        self._free.clear()
        assert not sink(b"data: 2\n\n")
        asyncio.get_running_loop().call_soon(self._free.set)
        raise LogLost("The store has lost this stream.")


async def test_what_is_being_sent_is_sent_before_the_error_that_ends_the_stream() -> None:
    free, bodies = asyncio.Event(), list[bytes]()
    free.set()

    async def send(message: Message) -> None:
        await free.wait()
        bodies.append(message.get("body", b""))

    answer: Any = StreamAnswer(cast(Any, None), cast(Any, None), keepalive=15.0)
    async with asyncio.timeout(5):
        assert await answer._serve(cast(WaitingCall, LosesItsLog(free)), send) == "failed"

    _, first, second, error = bodies
    assert (first, second) == (b"data: 1\n\n", b"data: 2\n\n")
    assert b"log_lost" in error and error.endswith(b"data: [DONE]\n\n")
