"""Counts the bytes of each tenant's files and enforces the tenant's limit.

One document per tenant counts the bytes by the hour in which they expire, so expired files do not count, even if the
reaper has not removed them yet. An upload reserves its bytes before it writes them, in a bucket that expires after
RESERVED_FOR seconds, which frees the reservations of a process that died.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import orjson

from producer.files.entry import FileEntry
from shared.ports import Document, DocumentChanged, Documents
from shared.quota import files_full

KIND = "file-usage"
CHANGE = "change"
HOUR = 3600
RESERVED_FOR = 6 * HOUR
"""Seconds for which an upload's reservation lasts."""

STEP = 16 * 1024 * 1024
"""Bytes that an upload of unknown size reserves at a time."""

EACH = 64 * 1024
"""Bytes charged for each file in addition to its content: for its entry and its directory."""


def bucket_of(expires_at: float) -> int:
    """Returns the end, in Unix seconds, of the hour in which a file expires."""
    return (int(expires_at) // HOUR + 1) * HOUR


class FileUsage:
    """`limit`: most bytes of a tenant's files, 0 for no limit."""

    def __init__(self, documents: Documents, limit: int) -> None:
        self._documents = documents
        self._limit = limit

    async def require_room(self, tenant: str) -> None:
        """Raises StorageQuotaExceeded when the tenant has no room left."""
        if self._limit:
            document = await self._read(tenant)
            if (kept := sum(counted(document).values())) >= self._limit:
                raise files_full(kept, self._limit)

    async def change(self, tenant: str, changes: Mapping[int, int], *, limited: bool = False) -> None:
        """Adds the bytes in `changes`, which may be negative, to the buckets. If `limited`, raises
        StorageQuotaExceeded above the limit.
        """
        if not self._limit:
            return
        while True:
            document = await self._read(tenant)
            before = counted(document)
            after = changed(before, changes)
            if limited and sum(after.values()) > self._limit:
                raise files_full(sum(before.values()), self._limit)
            # `put` treats an equal stored value as its own earlier write; the random value makes each write distinct.
            named = {str(bucket): size for bucket, size in after.items()} | {CHANGE: secrets.token_hex(8)}
            value = orjson.dumps(named)
            lasts = max([*after, time.time() + HOUR]) - time.time()
            try:
                await self._documents.put(replace(document, value=value), expires_in=lasts)
                return
            except DocumentChanged:
                continue

    async def _read(self, tenant: str) -> Document:
        return await self._documents.get(KIND, tenant, KIND) or Document(KIND, tenant, KIND, value=b"{}")

    @asynccontextmanager
    async def room(self, tenant: str, expected: int) -> AsyncGenerator[Room]:
        """Reserves room for an upload of about `expected` bytes. The end of the context releases the reservation and
        charges the stored file, if any. Raises StorageQuotaExceeded.
        """
        room = Room(self, tenant)
        await room.take(expected + EACH)
        try:
            yield room
        finally:
            await asyncio.shield(room.commit())


class Room:
    """The quota that one upload has reserved."""

    def __init__(self, usage: FileUsage, tenant: str) -> None:
        self._usage = usage
        self._tenant = tenant
        self._bucket = bucket_of(time.time() + RESERVED_FOR)
        self._taken = 0
        self._file: FileEntry | None = None

    async def take(self, size: int) -> None:
        await self._usage.change(self._tenant, {self._bucket: size}, limited=True)
        self._taken += size

    async def counted(self, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
        """Yields the chunks, each after its bytes are reserved. Raises StorageQuotaExceeded."""
        size = EACH
        async for chunk in chunks:
            size += len(chunk)
            while size > self._taken:
                await self.take(STEP)
            yield chunk

    def keep(self, file: FileEntry) -> None:
        """Marks the upload as stored, so that `commit` charges the file."""
        self._file = file

    async def commit(self) -> None:
        """Releases the reservation, and charges the file that was kept."""
        changes = {self._bucket: -self._taken}
        if self._file is not None:
            bucket = bucket_of(self._file.expires_at)
            changes[bucket] = changes.get(bucket, 0) + self._file.size + EACH
        await self._usage.change(self._tenant, changes)


def counted(document: Document) -> dict[int, int]:
    """Returns the bytes per bucket, without expired buckets."""
    now = time.time()
    found: dict[str, int] = orjson.loads(document.value)
    found.pop(CHANGE, None)
    return {int(bucket): size for bucket, size in found.items() if int(bucket) > now}


def changed(before: Mapping[int, int], changes: Mapping[int, int]) -> dict[int, int]:
    """Returns the buckets after the changes. No bucket goes below 0, because a lost document starts empty."""
    now = time.time()
    after = dict(before)
    for bucket, more in changes.items():
        after[bucket] = max(0, after.get(bucket, 0) + more)
    return {bucket: size for bucket, size in after.items() if size and bucket > now}
