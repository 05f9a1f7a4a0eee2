"""The contract of a storage. tests/producer/test_storage.py checks every implementation against it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

CHUNK = 1024 * 1024
"""Bytes of one read or write."""


class ObjectMissing(Exception):
    """No object has this key; it may have been deleted."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """`modified_at`: Unix time at which it was put."""

    key: str
    modified_at: float


class Storage(Protocol):
    """Objects: bytes under a key, written once and whole. A key is a path: names joined by slashes.

    All calls raise StorageUnavailable when the disk or the server fails.
    """

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        """Stores the bytes of `chunks`, and returns their size. The object is durable when this returns and invisible
        before. An error of `chunks` is raised, and no object is stored.
        """
        ...

    def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """Yields the object's bytes from `start` up to, not including, `end`, in chunks. Raises ObjectMissing."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes the objects; missing ones are no error."""
        ...

    def objects(self) -> AsyncIterator[StoredObject]:
        """Yields all objects, in no order, with the remains of interrupted puts."""
        ...
