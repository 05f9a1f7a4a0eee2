"""Stores files: entries as documents, bytes as objects in the storage."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from producer.files.entry import KIND, UPLOADED, FileEntry, Part, object_key
from producer.files.usage import EACH, FileUsage, bucket_of
from producer.storage import ObjectMissing, Storage
from shared.errors import Conflict, NotFound
from shared.ports import Document, DocumentChanged, Documents

PAGE = 500
"""Entries read at a time while a list is filtered."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file's current bytes. `lines`: the number of lines written so far; None for a complete file."""

    parts: Sequence[Part]
    lines: int | None = None

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


GrowingContent = Callable[[str, str, str], Awaitable[Content]]
"""(tenant, id of what writes the file, file id) → the file's content so far."""


class Files:
    def __init__(
        self, documents: Documents, storage: Storage, limit: int = 0, *, growing: GrowingContent | None = None
    ) -> None:
        """`limit`: most bytes of a tenant's files, 0 for no limit. `growing`: reads the content of files that batches
        still write.
        """
        self._documents = documents
        self._storage = storage
        self._growing = growing
        self.usage = FileUsage(documents, limit)

    # ── entries ──

    async def add(self, tenant: str, entry: FileEntry) -> None:
        """Adds an entry; does nothing if it exists."""
        value = entry.model_dump_json().encode()
        expires_in = max(1.0, entry.expires_at - time.time())
        try:
            await self._documents.put(Document(KIND, tenant, entry.id, value=value), expires_in=expires_in)
        except DocumentChanged:
            return

    async def complete(self, tenant: str, file_id: str, parts: Sequence[Part]) -> None:
        """Marks a growing file as complete, with these `parts`; does nothing for a deleted one. Raises DocumentChanged
        on a concurrent write.
        """
        found = await self._documents.get(KIND, tenant, file_id)
        if found is None or (entry := decode(found)).growing is None:
            return
        entry = entry.model_copy(update={"parts": tuple(parts), "growing": None})
        document = replace(found, value=entry.model_dump_json().encode())
        await self._documents.put(document, expires_in=max(1.0, entry.expires_at - time.time()))

    async def count_more(self, tenant: str, file_id: str, size: int, *, new: bool) -> None:
        """Charges `size` more bytes of a growing file to its tenant. Raises StorageQuotaExceeded above the limit; the
        bytes stay charged.
        """
        if (entry := await self.find(tenant, file_id)) is not None:
            await self.usage.change(tenant, {bucket_of(entry.expires_at): size + (EACH if new else 0)})
            await self.usage.require_room(tenant)

    async def find(self, tenant: str, file_id: str) -> FileEntry | None:
        found = await self._documents.get(KIND, tenant, file_id)
        return None if found is None else decode(found)

    async def get(self, tenant: str, file_id: str) -> FileEntry:
        """Returns the file's entry. Raises NotFound."""
        entry = await self.find(tenant, file_id)
        if entry is None:
            raise NotFound(f"No such File object: {file_id}", param="id")
        return entry

    async def list(
        self, tenant: str, *, purpose: str | None, after: str | None, limit: int, oldest_first: bool
    ) -> tuple[Sequence[FileEntry], bool]:
        """Returns a page of entries, and whether there are more."""
        found: list[FileEntry] = []
        more = True
        while more and len(found) <= limit:
            page = await self._documents.list(KIND, tenant, after=after, limit=PAGE, oldest_first=oldest_first)
            found += [entry for entry in map(decode, page) if purpose in (None, entry.purpose)]
            more = len(page) == PAGE
            after = page[-1].id if page else None
        return found[:limit], len(found) > limit

    async def delete(self, tenant: str, file_id: str) -> None:
        """Deletes the file. Raises NotFound; Conflict while a batch writes it."""
        document = await self._documents.get(KIND, tenant, file_id)
        if document is None:
            raise NotFound(f"No such File object: {file_id}", param="id")
        entry = decode(document)
        if entry.growing is not None:
            raise Conflict(f"The file is being written by {entry.growing}: cancel that first.", code="file_in_use")
        if await self._documents.delete(document):
            await self.usage.change(tenant, {bucket_of(entry.expires_at): -(entry.size + EACH)})
        await self._storage.delete([part.key for part in entry.parts])

    # ── bytes ──

    async def upload(self, tenant: str, file_id: str, chunks: AsyncIterable[bytes]) -> Part:
        """Stores the bytes of a file that has no entry yet."""
        key = object_key(tenant, file_id, UPLOADED)
        return Part(key=key, size=await self._storage.put(key, chunks))

    async def discard(self, part: Part) -> None:
        await self._storage.delete([part.key])

    async def content(self, tenant: str, entry: FileEntry) -> Content:
        """Returns the parts that hold the file's bytes now."""
        if entry.growing is None:
            return Content(entry.parts)
        if self._growing is None:
            return Content((), lines=0)
        return await self._growing(tenant, entry.growing, entry.id)

    async def read(self, tenant: str, file_id: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """Yields the bytes from `start` up to `end`, in chunks. A batch may merge a growing file's objects meanwhile;
        reading then continues in the merged object. Raises NotFound if the file is deleted meanwhile.
        """
        missing = False
        while start < end:
            content = await self.content(tenant, await self.get(tenant, file_id))
            try:
                async with aclosing(self._read(content.parts, start, end)) as chunks:
                    async for chunk in chunks:
                        start += len(chunk)
                        missing = False
                        yield chunk
                if start < end:
                    raise ObjectMissing(file_id)
            except ObjectMissing:
                if missing:
                    raise NotFound(f"The content of {file_id} was deleted.") from None
                missing = True

    async def _read(self, parts: Sequence[Part], start: int, end: int) -> AsyncGenerator[bytes]:
        begin = 0
        for part in parts:
            first, last = max(start - begin, 0), min(end - begin, part.size)
            if first < last:
                async with aclosing(self._storage.read(part.key, first, last)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            begin += part.size


def decode(document: Document) -> FileEntry:
    return FileEntry.model_validate_json(document.value)
