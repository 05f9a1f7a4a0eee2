"""Writes a batch's output: whole lines, in segments, which are immutable objects.

Sixteen segments of one level are merged into one segment of the next level. So a batch that runs for a day has dozens
of segments instead of a hundred thousand, and each byte is copied a few times at most.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from producer.batches.document import Batch, Output, Segment
from producer.files.entry import FileEntry, object_key
from producer.storage import Storage

FAN = 16
"""Segments of one level that are merged into one of the next level."""


async def once(data: bytes) -> AsyncGenerator[bytes]:
    yield data


class Outputs:
    """Writes segments for one generation of a batch's runner: no other generation has the same keys."""

    def __init__(self, storage: Storage, batch: Batch) -> None:
        self._storage = storage
        self._tenant = batch.tenant
        self._generation = batch.generation
        self._written = 0

    async def write(self, output: Output, lines: Sequence[bytes]) -> Segment:
        """Stores the lines as a segment. It belongs to the output once the batch's document names it."""
        key = self._new_key(output.file_id)
        size = await self._storage.put(key, once(b"".join(lines)))
        return Segment(key=key, size=size, lines=len(lines))

    async def merged(self, output: Output) -> Output:
        """Merges small segments at the output's end; returns the output with the same bytes."""
        while (tail := mergeable(output.segments)) > 0:
            small = output.segments[-tail:]
            key = self._new_key(output.file_id)
            size = await self._storage.put(key, self._read(small))
            lines, level = sum(each.lines for each in small), small[-1].level + 1
            segment = Segment(key=key, size=size, lines=lines, level=level)
            output = output.model_copy(update={"segments": (*output.segments[:-tail], segment)})
        return output

    async def delete_merged(self, before: Output, after: Output) -> None:
        """Deletes the segments that were merged. A client that is reading one continues in the merged segment."""
        kept = {segment.key for segment in after.segments}
        await self._storage.delete([segment.key for segment in before.segments if segment.key not in kept])

    def _new_key(self, file_id: str) -> str:
        self._written += 1
        return object_key(self._tenant, file_id, f"{self._generation}-{self._written}")

    async def _read(self, segments: Sequence[Segment]) -> AsyncGenerator[bytes]:
        for segment in segments:
            async with aclosing(self._storage.read(segment.key, 0, segment.size)) as chunks:
                async for chunk in chunks:
                    yield chunk


def mergeable(segments: Sequence[Segment]) -> int:
    """Returns how many segments at the end can be merged into one, or 0."""
    tail = segments[-FAN:]
    return FAN if len(tail) == FAN and len({segment.level for segment in tail}) == 1 else 0


def entry_of(batch: Batch, output: Output, *, kind: str, now: float, retention: float) -> FileEntry:
    """Returns the file entry of an output that is still growing. `kind`: output or errors."""
    return FileEntry(
        id=output.file_id,
        filename=f"{batch.id}_{kind}.jsonl",
        purpose="batch_output",
        created_at=now,
        expires_at=now + (batch.output_retention or retention),
        growing=batch.id,
    )
