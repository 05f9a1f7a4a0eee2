"""Chooses a batch's next line: the first line whose model is below its line limit.

A cursor reads the input in order. If the next line's model is at its limit and another model is not, the model is
*deferred*: the cursor skips the model's lines from there on, and a second cursor remembers where the first skipped line
begins. That second cursor reads the model's lines later. When it reaches the main cursor, the model is deferred no
longer. Which lines have been taken follows from the positions alone, so skipped lines are not kept in memory:

    before the main cursor, model not deferred    taken
    before the main cursor, model deferred        taken if before the model's own cursor
    after the main cursor                         not taken

Each deferral reads the skipped part of the input once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from producer.batches.document import Batch, DeferredModel
from producer.batches.input.lines import RawLine
from producer.batches.input.reader import LineSource

MOST_DEFERRED = 16
"""Models deferred at the same time; one more stops the main cursor."""

MOST_SKIPPED = 4 * 1024 * 1024
"""Bytes skipped in one pass; finished lines must be written between two passes."""

OpenSource = Callable[[int, int], LineSource]
"""(number of a line, offset of its first byte) → the lines from there on."""


@dataclass(slots=True)
class Cursor:
    """A position in the input and the lines after it. `peeked`: the next line, read but not taken."""

    source: LineSource
    number: int
    start: int
    peeked: RawLine | None = None

    async def next(self) -> RawLine | None:
        peeked, self.peeked = self.peeked, None
        return peeked or await self.source.next()

    def move_past(self, raw: RawLine) -> None:
        self.number, self.start = raw.number + 1, raw.end


class LineScheduler:
    """`model_of` returns a line's model, None for a line that must not run. `paused`: the last call of `next` stopped
    because it had skipped MOST_SKIPPED bytes; more lines may be available.
    """

    def __init__(self, batch: Batch, open_source: OpenSource, model_of: Callable[[RawLine], str | None]) -> None:
        self._open_source = open_source
        self._model_of = model_of
        self._asked = batch.asked
        self._one_model = batch.model is not None
        self._main = self._cursor(batch.next_line, batch.next_start)
        self._deferred = {each.model: self._cursor(each.number, each.start) for each in batch.deferred}
        self._exhausted = False
        self._skipped = 0
        self.paused = False

    def _cursor(self, number: int, start: int) -> Cursor:
        return Cursor(self._open_source(number, start), number, start)

    @property
    def ended(self) -> bool:
        """Whether every line was taken."""
        return self._exhausted and not self._deferred

    def with_progress(self, batch: Batch) -> Batch:
        """Returns the batch with the current positions."""
        deferred = tuple(
            DeferredModel(model=model, number=cursor.number, start=cursor.start)
            for model, cursor in self._deferred.items()
        )
        return batch.with_(next_line=self._main.number, next_start=self._main.start, deferred=deferred)

    def begin_pass(self) -> None:
        """Resets the count of skipped bytes."""
        self._skipped, self.paused = 0, False

    async def next(self, room: Callable[[str], int]) -> tuple[str, RawLine] | None:
        """Takes the next line of a model with `room` above 0, and returns the model and the line; None if there is no
        such line at present. Raises NotFound if the input file was deleted.
        """
        for model in [model for model in self._deferred if room(model) > 0]:
            if (raw := await self._next_deferred(model)) is not None:
                return model, raw
        return None if self._exhausted or self.paused else await self._next_in_order(room)

    async def _next_deferred(self, model: str) -> RawLine | None:
        """Takes the deferred model's next line. None if its cursor has reached the main one, or the pass is over."""
        cursor = self._deferred[model]
        while not self.paused:
            raw = await cursor.next()
            if raw is None or raw.start >= self._main.start:
                del self._deferred[model]
                return None
            cursor.move_past(raw)
            if self._model_of(raw) == model:
                return raw
            self._count_skipped(raw)
        return None

    async def _next_in_order(self, room: Callable[[str], int]) -> tuple[str, RawLine] | None:
        while not self.paused:
            if (raw := await self._main.next()) is None:
                self._exhausted = True
                return None
            model = self._model_of(raw)
            if model is not None and model not in self._deferred:
                if room(model) > 0:
                    self._main.move_past(raw)
                    return model, raw
                if not self._may_defer(model, room):
                    self._main.peeked = raw
                    return None
                self._deferred[model] = Cursor(self._main.source.fork(raw), raw.number, raw.start)
            self._main.move_past(raw)
            self._count_skipped(raw)
        return None

    def _may_defer(self, model: str, room: Callable[[str], int]) -> bool:
        """Whether skipping this model's lines can reach a line of a model that has room."""
        if self._one_model or len(self._deferred) >= MOST_DEFERRED:
            return False
        others: Iterable[str] = (each for each in self._asked if each != model and each not in self._deferred)
        return not self._asked or any(room(each) > 0 for each in others)

    def _count_skipped(self, raw: RawLine) -> None:
        self._skipped += raw.end - raw.start
        self.paused = self._skipped >= MOST_SKIPPED
