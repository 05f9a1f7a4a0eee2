"""Going on with a stream whose worker was lost. The bytes that a client has seen are never contradicted.

Two ways. *Continue*: give the engine the text so far and let it go on from there (plain text only). *Replay*: generate
again with the same seed, drop what was sent before and insist that it is the same; where it is not, the stream ends
with an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.errors import WorkerLost
from shared.frames import FRAME_END
from worker.fold import TEXTS

Chunk = Mapping[str, Any]
Place = tuple[int, str, int]
"""Where text of a stream belongs: choice, field, and the tool call's index (-1 outside of tool calls)."""

PREFIX = b"data: "


@dataclass(slots=True)
class Sent:
    """What earlier attempts have sent: their chunks, as read back from the log."""

    chunks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    texts: dict[Place, str] = field(default_factory=dict[Place, str])
    begun: set[int] = field(default_factory=set[int])
    ended: set[int] = field(default_factory=set[int])

    @classmethod
    def from_log(cls, data: bytes) -> Sent:
        sent = cls()
        for frame in data.split(FRAME_END)[:-1]:
            sent._add(orjson.loads(frame.removeprefix(PREFIX)))
        return sent

    def _add(self, chunk: dict[str, Any]) -> None:
        self.chunks.append(chunk)
        for part in chunk["choices"]:
            self.begun.add(part["index"])
            if part.get("finish_reason"):
                self.ended.add(part["index"])
            for place, text in texts_of(part):
                self.texts[place] = self.texts.get(place, "") + text

    @property
    def text(self) -> str:
        """The first choice's content."""
        return self.texts.get((0, "content", -1), "")


def texts_of(part: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Every piece of text in one choice of a chunk."""
    index, delta = part["index"], part["delta"]
    for name in TEXTS:
        if delta.get(name):
            yield (index, name, -1), delta[name]
    for call in delta.get("tool_calls") or ():
        function: Mapping[str, Any] = call.get("function") or {}
        for name in ("name", "arguments"):
            if function.get(name):
                yield (index, name, call["index"]), function[name]


def can_continue(request: Mapping[str, Any], sent: Sent) -> bool:
    """Whether the text so far says all about the stream so far: one choice of plain, unconstrained text."""
    plain = set(sent.texts) <= {(0, "content", -1)}
    return plain and not is_constrained(request) and not sent.ended


def is_constrained(request: Mapping[str, Any]) -> bool:
    """Whether an answer is more than one text, or is held to a form: the text so far does not say how far it got."""
    forms = ("tools", "functions", "logprobs", "response_format")
    return any(request.get(name) for name in forms) or (request.get("n") or 1) > 1


class Replay:
    """Drops from a repeated stream what was sent before. `filter` raises WorkerLost where the two diverge."""

    def __init__(self, sent: Sent) -> None:
        self._due = dict(sent.texts)

    def filter(self, chunk: Chunk) -> Chunk:
        """`chunk` without the text that clients have; tool call ids differ by nature, the ones sent first stay."""
        if not self._due:
            return chunk
        return {**chunk, "choices": [self._filter_choice(part) for part in chunk["choices"]]}

    def _filter_choice(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        delta = dict(part["delta"])
        dropped = False
        for name in TEXTS:
            if delta.get(name):
                delta[name], skipped = self._skip((part["index"], name, -1), delta[name])
                dropped |= skipped
        if delta.get("tool_calls"):
            calls = [self._filter_call(part["index"], call) for call in delta["tool_calls"]]
            delta["tool_calls"] = [call for call in calls if call]
        if part.get("finish_reason"):
            self._expect_nothing(part["index"])
        return {**part, "delta": delta, "logprobs": None if dropped else part.get("logprobs")}

    def _filter_call(self, choice: int, call: Mapping[str, Any]) -> Mapping[str, Any] | None:
        function = dict(call.get("function") or {})
        seen = False
        for name in ("name", "arguments"):
            if function.get(name):
                function[name], skipped = self._skip((choice, name, call["index"]), function[name])
                seen |= skipped
        if not seen:
            return call
        function = {name: text for name, text in function.items() if text}
        return {"index": call["index"], "function": function} if function else None

    def _skip(self, place: Place, text: str) -> tuple[str, bool]:
        """What of `text` is new, and whether any was not."""
        due = self._due.get(place, "")
        common = min(len(due), len(text))
        if due[:common] != text[:common]:
            raise diverged()
        if not common:
            return text, False
        self._due[place] = due[common:]
        if len(due) == common:
            del self._due[place]
        return text[common:], True

    def _expect_nothing(self, choice: int) -> None:
        if any(place[0] == choice for place in self._due):
            raise diverged()


def diverged() -> WorkerLost:
    return WorkerLost("The worker was lost, and generating again gave another answer than the part already sent.")
