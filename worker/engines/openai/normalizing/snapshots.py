"""Texts of which a server sends the whole so far each time instead of the next piece, or the whole again with the end.

A text that begins with all that came before it may be a snapshot, or a piece that happens to begin so. It is held back
until the next one tells which. Where nothing tells, it is a piece: nothing that a server sent is lost by mistake.
"""

from __future__ import annotations

from worker.engines.openai.normalizing.json_text import is_strict

SURE = 12
"""Characters that a piece does not repeat by chance."""


class TextPieces:
    """One text. `add` returns what is new in the next piece or snapshot, `rest` what was held back."""

    def __init__(self, *, is_json: bool = False) -> None:
        self.begun = False
        self.settled = False
        """Whether pieces come, and nothing is held back: such a text needs no more looking at."""
        self._is_json = is_json
        self._passed_on: list[str] = []
        self._so_far = ""
        self._held: str | None = None
        self._snapshots = False

    @property
    def waits(self) -> bool:
        """Whether something is held back."""
        return self._held is not None

    def add(self, text: str) -> str:
        new = self._add(text)
        self._passed_on.append(new)
        return new

    def pass_on(self, text: str) -> None:
        """Counts a piece of a settled text that the caller has passed on without asking."""
        self._passed_on.append(text)

    def is_repeated_by(self, last: str) -> bool:
        """Whether `last`, which came with the end, is the whole text once more, and too long for chance."""
        return len(last) >= SURE and len(last) == sum(map(len, self._passed_on)) and last == "".join(self._passed_on)

    def _add(self, text: str) -> str:
        if self.settled or not text:
            return text
        if not self.begun:
            self.begun, self._so_far = True, text
            return text
        if self._snapshots:
            return self._new_in(text)
        if self._held is not None:
            return self._after_held(self._held, text)
        if len(text) > len(self._so_far) and text.startswith(self._so_far):
            self._held = text
            return ""
        self.settled = True
        return text

    def rest(self) -> str:
        held, self._held = self._held, None
        if held is None:
            return ""
        self.settled = not self._is_snapshot(held)
        new = held if self.settled else self._new_in(held)
        self._passed_on.append(new)
        return new

    def _after_held(self, held: str, text: str) -> str:
        self._held = None
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
        """Whether the last text is one, which no other follows."""
        if self._is_json:
            both = self._so_far + held
            return is_strict(held.encode(errors="replace")) and not is_strict(both.encode(errors="replace"))
        return len(self._so_far) >= SURE
