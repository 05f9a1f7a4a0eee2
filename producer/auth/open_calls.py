"""Ends open calls whose key is revoked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from shared.errors import AuthenticationFailed


class OpenCalls:
    """This process's open calls by the id of their stored key."""

    def __init__(self) -> None:
        self._ends: defaultdict[str, set[Callable[[], None]]] = defaultdict(set)

    @contextmanager
    def ended_with(self, key: str | None, end: Callable[[], None]) -> Generator[None]:
        """Calls `end` if the key is revoked within the context. `key` is None for keys of the settings."""
        if key is None:
            yield
            return
        self._ends[key].add(end)
        try:
            yield
        finally:
            self._ends[key].discard(end)
            if not self._ends[key]:
                del self._ends[key]

    def end(self, key: str) -> int:
        """Ends the key's open calls and returns their number."""
        ends = list(self._ends.get(key, ()))
        for end in ends:
            end()
        return len(ends)


def revoked() -> AuthenticationFailed:
    return AuthenticationFailed("The API key was revoked.")
