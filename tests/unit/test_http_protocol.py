"""An answer's head leaves with its body, and never later than the turn."""

import asyncio
from typing import cast

from producer.http.connection.transport import HeadHolder

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def held() -> tuple[Wire, HeadHolder]:
    wire = Wire()
    return wire, HeadHolder(cast(asyncio.Transport, wire), asyncio.get_running_loop())


async def test_a_head_leaves_with_what_follows() -> None:
    wire, holder = held()
    holder.write(HEAD)
    holder.write(b"one")
    holder.write(b"two")
    await asyncio.sleep(0)
    assert wire.written == [HEAD + b"one", b"two"]


async def test_a_head_that_nothing_follows_leaves_at_the_end_of_the_turn() -> None:
    wire, holder = held()
    holder.write(HEAD)
    assert wire.written == []
    await asyncio.sleep(0)
    assert wire.written == [HEAD]


async def test_a_head_leaves_before_the_connection_is_closed() -> None:
    wire, holder = held()
    holder.write(HEAD)
    holder.close()
    assert wire.written == [HEAD]
    assert holder.is_closing()
