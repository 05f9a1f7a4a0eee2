"""The calls that are open, so that they end when their key is revoked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from shared.errors import AuthenticationFailed


class OpenCalls:
    """The calls of this process that are open, by the stored key that they came with."""

    def __init__(self) -> None:
        self._ends: defaultdict[str, set[Callable[[], None]]] = defaultdict(set)

    @contextmanager
    def ended_with(self, key: str | None, end: Callable[[], None]) -> Generator[None]:
        """While inside, `end` is called should the key be revoked. Keys of the settings cannot be."""
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
        """How many calls there were."""
        ends = list(self._ends.get(key, ()))
        for end in ends:
            end()
        return len(ends)


def revoked() -> AuthenticationFailed:
    return AuthenticationFailed("The API key was revoked.")
