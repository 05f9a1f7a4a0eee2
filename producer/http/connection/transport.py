"""A transport for uvicorn's protocol: sends a head together with its body, holds an answer back, and waits for the
client at the close.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

HOLD_ANSWER = "ignite.hold_answer"
"""The extension of a request's scope that delays its answer and closes the connection: a function."""

KERNEL_BUFFER = 64 * 1024
"""Bytes that the kernel buffers for a client in addition to those in flight."""


class HeadHolder:
    """Delays an answer's head until the body's first bytes, at most to the next event loop iteration.

    `lingers`: called at the close; returns True if the client is still sending, and only our half is to be closed.
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
        self._held = self._closes = False

    def write(self, data: bytes) -> None:
        if self._ended:
            return
        if self._held:
            self._head += data
        elif self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._send_head)
        else:
            self._transport.write(data)

    def hold(self, seconds: float) -> None:
        """Sends what is written from now on, a short last answer, after `seconds`, and closes then."""
        self._send_head()
        self._held = True
        self._loop.call_later(seconds, self._release)

    def _release(self) -> None:
        self._held = False
        if not self._transport.is_closing():
            self._send_head()
            if self._closes:
                self.close()

    def close(self) -> None:
        self._closes = True
        self._send_head()
        if self._ended or self._held:
            return
        self._ended = True
        if not self._lingers():
            self._transport.close()

    def is_closing(self) -> bool:
        return self._ended or self._closes or self._transport.is_closing()

    def _send_head(self) -> None:
        if self._head and not self._held:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        """Returns the wrapped transport's attributes."""
        return getattr(self._transport, name)


def bound_kernel_buffer(transport: asyncio.Transport) -> None:
    """Limits the kernel's send buffer, which would grow to megabytes for a client that does not read."""
    with suppress(OSError, AttributeError):
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_BUFFER)
