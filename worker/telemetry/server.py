"""Serves a worker's /metrics and /healthz on a port of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

LONGEST_HEAD = 8 * 1024
PATIENCE = 5.0
"""Seconds in which a request's head must arrive and its answer be read."""

MOST_CONNECTIONS = 16


@asynccontextmanager
async def serving_metrics(host: str, port: int) -> AsyncGenerator[int]:
    """Serves until the context ends; yields the port. Raises OSError if it cannot listen there."""
    room = asyncio.Semaphore(MOST_CONNECTIONS)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if room.locked():
                return
            async with room, asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(answer_to(head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            with suppress(OSError):
                writer.close()

    server = await asyncio.start_server(serve, host, port, limit=LONGEST_HEAD)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answer_to(head: bytes) -> bytes:
    """Returns the HTTP answer to a request with this head."""
    method, _, rest = head.partition(b" ")
    if method not in (b"GET", b"HEAD"):
        return answer("405 Method Not Allowed", b"only GET\n", method=method)
    match rest.partition(b" ")[0].partition(b"?")[0]:
        case b"/metrics":
            return answer("200 OK", generate_latest(), method=method, content_type=CONTENT_TYPE_LATEST)
        case b"/healthz":
            return answer("200 OK", b"ok\n", method=method)
        case _:
            return answer("404 Not Found", b"/metrics and /healthz are here\n", method=method)


def answer(status: str, body: bytes, *, method: bytes, content_type: str = "text/plain; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else body)
