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


def requested_range(header: str | None, size: int) -> Span | None:
    """Returns the range in a `Range` header, None to send the whole file. RFC 9110 lets a server ignore ranges that it
    does not support, such as several at once. Raises RangeNotSatisfiable.
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
        raise RangeNotSatisfiable(f"The file has {size:,} bytes, and none of them is in this range.", param="Range")
    return span


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether a client's `If-Range` matches the current file, so that its `Range` applies (RFC 9110, 13.1.5). Weak
    tags do not identify bytes, and dates never match, because answers have no Last-Modified.
    """
    return if_range is None or if_range.strip() == etag


class ContentAnswer(Response):
    """Sends `span` of a file of `size` bytes while reading it. A client's disconnect stops the reading at once."""

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
        await first(self._send_all(send), disconnected(receive))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._read(self._span.start, self._span.end)) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
