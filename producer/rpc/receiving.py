"""Limits the memory and time of messages that are being received.

gRPC's core buffers at most WINDOW bytes of a message until the handler reads it, and then all of it. So messages are
read after authentication, a limited number at a time, and each with a timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from producer.admission.open_counts import OpenCounts
from shared.errors import DeadlineExceeded, InvalidRequest, RateLimited, Unavailable

T = TypeVar("T")

WINDOW = 65_535
"""Bytes of a stream that are buffered before it is read: HTTP/2's default."""

LEAST_SLOTS = 2

TENANTS_SHARE = 0.5
"""The share of all slots that one tenant may use at a time."""

MAX_WAITING = 1000
"""Calls that may wait for a slot."""


class Receiving:
    """Slots for reading messages: as many as fit into `memory` bytes, at `largest` bytes each. `timeout`: seconds for
    the wait for a slot and the message together.
    """

    def __init__(self, *, memory: int, largest: int, timeout: float) -> None:
        count = max(LEAST_SLOTS, memory // largest)
        self._slots = asyncio.Semaphore(count)
        self._per_tenant = max(1, int(count * TENANTS_SHARE))
        self._tenants: dict[str, asyncio.Semaphore] = {}
        self._calls: dict[str, int] = {}
        self._waiting = 0
        self._timeout = timeout

    async def first(self, messages: AsyncIterator[T], tenant: str) -> T:
        """Returns the call's message. Raises Unavailable, DeadlineExceeded, InvalidRequest."""
        reading = False
        try:
            async with asyncio.timeout(self._timeout), self._slot(tenant):
                reading = True
                message = await anext(messages, None)
        except TimeoutError:
            raise late(self._timeout) if reading else busy() from None
        if message is None:
            raise InvalidRequest("The call has no message: send one ChatCompletionRequest.")
        return message

    @asynccontextmanager
    async def _slot(self, tenant: str) -> AsyncGenerator[None]:
        if self._waiting >= MAX_WAITING:
            raise busy()
        own = self._tenants.setdefault(tenant, asyncio.Semaphore(self._per_tenant))
        self._calls[tenant] = self._calls.get(tenant, 0) + 1
        self._waiting += 1
        waiting = True
        try:
            async with own, self._slots:
                self._waiting, waiting = self._waiting - 1, False
                yield
        finally:
            self._waiting -= waiting
            self._calls[tenant] -= 1
            if not self._calls[tenant]:
                del self._calls[tenant], self._tenants[tenant]


class CallLimit:
    """Limits authenticated open calls: `most` in total, and a share of that for one tenant."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._per_tenant = max(1, int(most * TENANTS_SHARE))
        self._open = OpenCounts()

    @contextmanager
    def counted(self, tenant: str) -> Generator[None]:
        """Counts one call of the tenant within the context. Raises RateLimited, Unavailable."""
        if self._open.of(tenant) >= self._per_tenant:
            raise RateLimited(
                f"Too many calls are open over gRPC: {self._per_tenant:,} of one tenant at once.",
                code="too_many_open_calls",
                retry_after=1,
            )
        if self._open.total >= self._most:
            message = f"Too many calls are open over gRPC: this server accepts {self._most:,} at once."
            raise Unavailable(message, code="too_many_open_calls", retry_after=1)
        with self._open.counted(tenant):
            yield


def busy() -> Unavailable:
    return Unavailable("This server is receiving as many messages as it has memory for.", retry_after=1)


def late(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"The message did not arrive within {seconds:g} s.", code="receive_timeout")


class UnauthenticatedReceiving:
    """Slots for messages of clients without a key (health, reflection). There is no waiting: without a free slot the
    message is not read.
    """

    def __init__(self, *, slots: int, timeout: float) -> None:
        self._free = slots
        self._timeout = timeout

    @property
    def full(self) -> bool:
        return self._free == 0

    async def next(self, messages: AsyncIterator[T]) -> T | None:
        """Returns the next message, or None at the end. Raises DeadlineExceeded, Unavailable."""
        if self.full:
            raise busy()
        self._free -= 1
        try:
            async with asyncio.timeout(self._timeout):
                return await anext(messages, None)
        except TimeoutError:
            raise late(self._timeout) from None
        finally:
            self._free += 1
