"""Reads a batch's input from any position, in bounded memory, and yields to the event loop regularly."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from copy import copy

from producer.batches.document import OpenLine
from producer.batches.input.lines import LineReader, RawLine
from producer.files.catalog import Files
from producer.storage.port import CHUNK

SLICE = 64 * 1024
"""Bytes that are read before yielding to the event loop."""


class LineSource:
    """Reads a file's lines from the line `number`, which begins at the byte `start`. No file or connection is open
    between two reads, because hours may pass from one line to the next.
    """

    def __init__(self, files: Files, tenant: str, file_id: str, *, limit: int, number: int = 1, start: int = 0) -> None:
        self._files = files
        self._tenant = tenant
        self._file_id = file_id
        self._limit = limit
        self._reader = LineReader(limit, number=number, start=start)
        self._position = start
        self._lines: deque[RawLine] = deque()
        self._ended = False

    async def next(self) -> RawLine | None:
        """Returns the next line, None at the end. Raises NotFound if the file was deleted."""
        while not self._lines and not self._ended:
            await self._read()
        return self._lines.popleft() if self._lines else None

    def fork(self, last: RawLine) -> LineSource:
        """Returns a second source that begins at `last`, the line that `next` returned last. Reads no data again."""
        twin = copy(self)
        twin._reader, twin._lines = self._reader.fork(), deque([last, *self._lines])
        return twin

    async def _read(self) -> None:
        content = await self._files.content(self._tenant, await self._files.get(self._tenant, self._file_id))
        end = min(self._position + CHUNK, content.size)
        async with aclosing(self._files.read(self._tenant, self._file_id, self._position, end)) as chunks:
            async for chunk in chunks:
                await self._split(chunk)
        self._position = end
        if end >= content.size:
            self._lines.extend(self._reader.end())
            self._ended = True

    async def _split(self, chunk: bytes) -> None:
        for at in range(0, len(chunk), SLICE):
            self._lines.extend(self._reader.feed(chunk[at : at + SLICE]))
            await asyncio.sleep(0)

    async def at(self, line: OpenLine) -> RawLine:
        """Reads one line by its byte range."""
        reader = LineReader(self._limit, number=line.number, start=line.start)
        found: list[RawLine] = []
        async with aclosing(self._files.read(self._tenant, self._file_id, line.start, line.end)) as chunks:
            async for chunk in chunks:
                found += reader.feed(chunk)
        return [*found, *reader.end()][0]


async def slowly(lines: LineSource) -> AsyncGenerator[RawLine]:
    """Yields all lines; yields to the event loop after every SLICE bytes."""
    seen = 0
    while (line := await lines.next()) is not None:
        yield line
        seen += line.end - line.start
        if seen >= SLICE:
            seen = 0
            await asyncio.sleep(0)
