"""Counts how many calls each tenant has open in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager


class OpenCounts:
    """Tenants without an open call take no memory."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self._open.total()

    def of(self, tenant: str) -> int:
        return self._open[tenant]

    @contextmanager
    def counted(self, tenant: str) -> Generator[None]:
        """Counts one call of the tenant within the context."""
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]
