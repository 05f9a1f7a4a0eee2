"""The transport that uvicorn's protocol writes to: a head leaves with its body, and a close waits for the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class HeadHolder:
    """A transport that keeps a head until something is written after it, but not beyond the turn.

    `lingers`: asked when it is to be closed; whether the other side is still sending, so that only our half is closed.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        lingers: Callable[[], bool] = lambda: False,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._lingers = lingers
        self._head = b""
        self._ended = False

    def write(self, data: bytes) -> None:
        if self._ended:
            return
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._let_go)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._let_go()
        if self._ended:
            return
        self._ended = True
        if not self._lingers():
            self._transport.close()

    def is_closing(self) -> bool:
        return self._ended or self._transport.is_closing()

    def _let_go(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's own."""
        return getattr(self._transport, name)
