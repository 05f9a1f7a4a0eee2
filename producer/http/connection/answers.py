"""Adapts an answer's framing to its request: Expect: 100-continue and HTTP/1.0."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def closing_where_unread(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """Closes the connection after an answer that is sent before `100 Continue`. The client may send its body or another
    request next, and the server cannot tell which.
    """

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        def send_marked(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start" and cycle.waiting_for_100_continue:
                others = [pair for pair in message.get("headers", ()) if pair[0] != b"connection"]
                message["headers"] = [*others, (b"connection", b"close")]
            return send(message)

        await app(scope, receive, send_marked)

    return answered


def without_chunks(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """Sends an answer of unknown length without chunks, which HTTP/1.0 lacks: its end is the connection's end."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        unbounded = False

        def send_plain(message: Message) -> Awaitable[None]:
            nonlocal unbounded
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message.get("headers", ())}
                if unbounded := b"content-length" not in names:
                    cycle.chunked_encoding = False
                    cycle.expected_content_length = cast(int, float("inf"))
            elif unbounded and not message.get("more_body"):
                cycle.expected_content_length = len(message.get("body", b""))
            return send(message)

        await app(scope, receive, send_plain)

    return answered
