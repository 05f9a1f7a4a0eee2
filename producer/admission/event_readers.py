"""Limits the open streams of jobs' events of one tenant in a process."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from producer.admission.open_counts import OpenCounts
from shared.errors import RateLimited


class EventReaders:
    """Each stream may hold some 128 KB for a client that does not read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = OpenCounts()

    @contextmanager
    def counted(self, tenant: str) -> Generator[None]:
        """Raises RateLimited."""
        if self._open.of(tenant) >= self._limit:
            message = f"Your tenant follows events on {self._limit:,} connections of this server, which is the limit."
            raise RateLimited(message, code="too_many_readers", retry_after=5)
        with self._open.counted(tenant):
            yield
