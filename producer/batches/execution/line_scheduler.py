"""Which line of a batch is next: the first one whose model has room.

Lines are taken in the order of the input, from its *front*. Where the next line's model has no room and another model
has, that model *falls behind*: the front goes on, and passes over its lines from there. They are taken later, from a
place in the input of the model's own; when that reaches the front, the model is back among the others. So the lines
that are left are known by a few places, however far they lie apart, and none of them is kept:

    before the front, of a model that is not behind    taken
    before the front, of one that is                   taken before its own place, and left from there
    from the front on                                  left

What is left is read once more for each model that fell behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from producer.batches.document import Batch, Behind
from producer.batches.input.lines import RawLine
from producer.batches.input.reader import LineSource

MOST_BEHIND = 16
"""Models that may be behind at a time; one more holds up the front."""

MOST_LOOKED_AT = 4 * 1024 * 1024
"""Bytes that are passed over in one turn: answers must be written down in between."""

OpenSource = Callable[[int, int], LineSource]
"""(number of the line, the byte at which it begins) → the lines from there on."""


@dataclass(slots=True)
class Lane:
    """A place in the input, and the lines from there on. `peeked`: the next of them, where it had to wait."""

    source: LineSource
    number: int
    start: int
    peeked: RawLine | None = None

    async def next(self) -> RawLine | None:
        peeked, self.peeked = self.peeked, None
        return peeked or await self.source.next()

    def past(self, raw: RawLine) -> None:
        self.number, self.start = raw.number + 1, raw.end


class LineScheduler:
    """`model_of` tells which model a line is for, None where it is not to be run at all. `paused`: the last call of
    `next` gave up because it had passed over much, not because there was no line.
    """

    def __init__(self, batch: Batch, open_source: OpenSource, model_of: Callable[[RawLine], str | None]) -> None:
        self._open_source = open_source
        self._model_of = model_of
        self._asked = batch.asked
        self._one_model = batch.model is not None
        self._front = self._lane(batch.next_line, batch.next_start)
        self._behind = {lane.model: self._lane(lane.number, lane.start) for lane in batch.behind}
        self._exhausted = False
        self._looked_at = 0
        self.paused = False

    def _lane(self, number: int, start: int) -> Lane:
        return Lane(self._open_source(number, start), number, start)

    @property
    def ended(self) -> bool:
        """Whether every line was taken."""
        return self._exhausted and not self._behind

    def noted(self, batch: Batch) -> Batch:
        """The batch, with what is left to be taken."""
        behind = tuple(
            Behind(model=model, number=lane.number, start=lane.start) for model, lane in self._behind.items()
        )
        return batch.with_(next_line=self._front.number, next_start=self._front.start, behind=behind)

    def begin(self) -> None:
        """A new turn."""
        self._looked_at, self.paused = 0, False

    async def next(self, room: Callable[[str], int]) -> tuple[str, RawLine] | None:
        """The next line of a model that has room, and the model; None where there is none now. Raises NotFound when the
        input is gone.
        """
        for model in [model for model in self._behind if room(model) > 0]:
            if (raw := await self._left_of(model)) is not None:
                return model, raw
        return None if self._exhausted or self.paused else await self._at_front(room)

    async def _left_of(self, model: str) -> RawLine | None:
        """The next line of a model that is behind; None where it has caught up with the front, or the turn is over."""
        lane = self._behind[model]
        while not self.paused:
            raw = await lane.next()
            if raw is None or raw.start >= self._front.start:
                del self._behind[model]
                return None
            lane.past(raw)
            if self._model_of(raw) == model:
                return raw
            self._pass_over(raw)
        return None

    async def _at_front(self, room: Callable[[str], int]) -> tuple[str, RawLine] | None:
        while not self.paused:
            if (raw := await self._front.next()) is None:
                self._exhausted = True
                return None
            model = self._model_of(raw)
            if model is not None and model not in self._behind:
                if room(model) > 0:
                    self._front.past(raw)
                    return model, raw
                if not self._may_fall_behind(model, room):
                    self._front.peeked = raw
                    return None
                self._behind[model] = Lane(self._front.source.fork(raw), raw.number, raw.start)
            self._front.past(raw)
            self._pass_over(raw)
        return None

    def _may_fall_behind(self, model: str, room: Callable[[str], int]) -> bool:
        """Whether it is worth while to look beyond this model's lines."""
        if self._one_model or len(self._behind) >= MOST_BEHIND:
            return False
        others: Iterable[str] = (each for each in self._asked if each != model and each not in self._behind)
        return not self._asked or any(room(each) > 0 for each in others)

    def _pass_over(self, raw: RawLine) -> None:
        self._looked_at += raw.end - raw.start
        self.paused = self._looked_at >= MOST_LOOKED_AT
