"""Recognizes servers that send snapshots (the whole text so far) instead of pieces, or repeat the text at the end.

A text that begins with all earlier text is a snapshot, or a piece that begins like that by chance. It is buffered until
the next text decides. If nothing decides, it counts as a piece, so that no text is lost.
"""

from __future__ import annotations

from worker.engines.openai.normalizing.json_text import is_strict

SURE = 12
"""A repetition of this many characters is not chance."""


class TextPieces:
    """One text. `add` returns the new part of the next piece or snapshot, `rest` the buffered text."""

    def __init__(self, *, is_json: bool = False) -> None:
        self.begun = False
        self.settled = False
        """Whether the server is known to send pieces. Then nothing is buffered or compared any more."""
        self._is_json = is_json
        self._passed_on: list[str] = []
        self._so_far = ""
        self._buffered: str | None = None
        self._snapshots = False

    @property
    def waits(self) -> bool:
        """Whether text is buffered."""
        return self._buffered is not None

    def add(self, text: str) -> str:
        new = self._add(text)
        self._passed_on.append(new)
        return new

    def pass_on(self, text: str) -> None:
        """Records a piece of a settled text that the caller passed on without `add`."""
        self._passed_on.append(text)

    def is_repeated_by(self, last: str) -> bool:
        """Whether `last`, sent with the finish_reason, repeats the whole text and is too long for chance."""
        return len(last) >= SURE and len(last) == sum(map(len, self._passed_on)) and last == "".join(self._passed_on)

    def _add(self, text: str) -> str:
        if self.settled or not text:
            return text
        if not self.begun:
            self.begun, self._so_far = True, text
            return text
        if self._snapshots:
            return self._new_in(text)
        if self._buffered is not None:
            return self._after_buffered(self._buffered, text)
        if len(text) > len(self._so_far) and text.startswith(self._so_far):
            self._buffered = text
            return ""
        self.settled = True
        return text

    def rest(self) -> str:
        held, self._buffered = self._buffered, None
        if held is None:
            return ""
        self.settled = not self._is_snapshot(held)
        new = held if self.settled else self._new_in(held)
        self._passed_on.append(new)
        return new

    def _after_buffered(self, held: str, text: str) -> str:
        self._buffered = None
        if text.startswith(held) and (len(text) > len(held) or len(held) >= SURE):
            self._snapshots = True
            return self._new_in(text)
        self.settled = True
        return held + text

    def _new_in(self, snapshot: str) -> str:
        if self._so_far.startswith(snapshot):
            return ""
        new = snapshot.removeprefix(self._so_far)
        self._so_far = self._so_far + new
        return new

    def _is_snapshot(self, held: str) -> bool:
        """Whether the buffered text, after which none follows, is a snapshot."""
        if self._is_json:
            both = self._so_far + held
            return is_strict(held.encode(errors="replace")) and not is_strict(both.encode(errors="replace"))
        return len(self._so_far) >= SURE
