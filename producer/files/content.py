"""Sends a file's bytes: whole, or the requested range."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.aio import first
from shared.errors import RangeNotSatisfiable

ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to, not including, `end`."""

    start: int
    end: int


def asked_range(header: str | None, size: int) -> Span | None:
    """The range that a `Range` header asks for; None where the whole is to be sent: RFC 9110 lets a server pass over
    what it does not understand, several ranges among it. Raises RangeNotSatisfiable.
    """
    asked = ONE_RANGE.fullmatch((header or "").replace(" ", ""))
    if asked is None or asked[0] == "bytes=-":
        return None
    first_byte, last_byte = asked[1], asked[2]
    if not first_byte:
        span = Span(max(0, size - int(last_byte)), size)
    else:
        span = Span(int(first_byte), min(size, int(last_byte) + 1) if last_byte else size)
        if last_byte and int(last_byte) < int(first_byte):
            return None
    if span.start >= span.end:
        raise RangeNotSatisfiable(f"The file has {size:,} bytes: there is nothing in this range.", param="Range")
    return span


def range_counts(if_range: str | None, etag: str) -> bool:
    """Whether what a client has is a part of what there is now, by the tag in its `If-Range` (RFC 9110, 13.1.5). A weak
    tag says nothing of bytes, and a date says nothing here, for we tell none.
    """
    return if_range is None or if_range.strip() == etag


class ContentAnswer(Response):
    """Sends `span` of a file of `size` bytes as it is read. A hang-up ends the reading at once."""

    def __init__(
        self,
        read: Callable[[int, int], AsyncGenerator[bytes]],
        size: int,
        span: Span | None,
        headers: dict[str, str],
    ) -> None:
        self._span = Span(0, size) if span is None else span
        ranged = {} if span is None else {"content-range": f"bytes {span.start}-{span.end - 1}/{size}"}
        length = {"content-length": str(self._span.end - self._span.start)}
        super().__init__(None, 200 if span is None else 206, {**headers, **ranged, **length, "accept-ranges": "bytes"})
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await first(self._send_all(send), hung_up(receive))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._read(self._span.start, self._span.end)) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
