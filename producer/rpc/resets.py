"""Closes gRPC connections whose client starts calls and resets them at once. gRPC's core hands on each of these calls,
and refuses those of other clients when too many of them wait.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, ip_address

import structlog
from cachetools import LRUCache

from producer.metrics import CONNECTIONS_CUT
from producer.rpc.peers import endpoint_of

log = structlog.get_logger(__name__)

BURST = 200
"""Calls of a connection that may be reset in a row before their message was read."""

REFILL = 20.0
"""Further ones per second."""

REMEMBERED = 10_000
"""Connections."""

LOG_EVERY = 10.0

DESCRIPTORS = "/proc/self/fd"


class ResetGuard:
    """Counts resets by connection. A client that cancels while it waits for an answer is not counted."""

    def __init__(self) -> None:
        self._left: LRUCache[str, tuple[float, float]] = LRUCache(REMEMBERED)
        self._closing: dict[str, asyncio.Future[None]] = {}
        self._logged_at = float("-inf")

    @contextmanager
    def noted(self, peer: str) -> Generator[None]:
        """Counts a call of `peer`, in gRPC's form, that is reset within the context."""
        try:
            yield
        except asyncio.CancelledError:
            self.note(peer)
            raise

    def note(self, peer: str) -> None:
        """Counts a reset, and closes the connection if there were too many."""
        now = time.monotonic()
        left, at = self._left.get(peer, (BURST, now))
        left = min(BURST, left + (now - at) * REFILL) - 1
        self._left[peer] = left, now
        if left >= 0 or peer in self._closing:
            return
        self._closing[peer] = closing = asyncio.ensure_future(asyncio.to_thread(shut_down, endpoint_of(peer)))
        closing.add_done_callback(lambda _: self._closing.pop(peer))
        CONNECTIONS_CUT.labels("grpc_resets").inc()
        if now - self._logged_at >= LOG_EVERY:
            self._logged_at = now
            log.warning("grpc.resets_bounded", address=endpoint_of(peer)[0], next="the connection is closed")


def shut_down(endpoint: tuple[str, int]) -> None:
    """Shuts down this process's connections to the address and port. The core closes them as if the client had left."""
    for descriptor in os.listdir(DESCRIPTORS) if os.path.isdir(DESCRIPTORS) else ():
        with suppress(OSError):
            if os.readlink(f"{DESCRIPTORS}/{descriptor}").startswith("socket:"):
                shut_down_if(endpoint, os.dup(int(descriptor)))


def shut_down_if(endpoint: tuple[str, int], descriptor: int) -> None:
    """Closes `descriptor`, which is a copy: the core may close its own at any time."""
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:  # Another file has its number by now.
        os.close(descriptor)
        return
    with connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            host, port = connection.getpeername()[:2]
            if (plain(host), port) == endpoint:
                connection.shutdown(socket.SHUT_RDWR)


def plain(host: str) -> str:
    """Returns an address as gRPC names it, without IPv6's form of an IPv4 address."""
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
