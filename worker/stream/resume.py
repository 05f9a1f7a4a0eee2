"""Going on with a stream whose worker was lost. The bytes that a client has seen are never contradicted.

Two ways. *Continue*: give the engine the text so far and let it go on from there (plain text only). *Replay*: generate
again with the same seed, drop what was sent before and insist that it is the same; where it is not, the stream ends
with an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from shared.errors import WorkerLost
from shared.frames import FRAME_END
from worker.stream.fold import OF_DELTA, PAYLOADS, TEXTS

Chunk = Mapping[str, Any]
Place = tuple[int, str, int]
"""Where text of a stream belongs: choice, field, and the tool call's index (-1 outside of tool calls)."""

PREFIX = b"data: "


@dataclass(slots=True)
class Sent:
    """What earlier attempts have sent: their chunks, as read back from the log. `others` counts what is not text: the
    items of lists, and the pieces of all else.
    """

    chunks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    texts: dict[Place, str] = field(default_factory=dict[Place, str])
    others: Counter[tuple[int, str]] = field(default_factory=Counter[tuple[int, str]])
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
            for name in part["delta"].keys() - OF_DELTA:
                value = part["delta"][name]
                self.others[part["index"], name] += len(cast(list[Any], value)) if isinstance(value, list) else 1

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
        yield from texts_of_call(index, call["index"], call.get(kind_of(call)) or {})
    yield from texts_of_call(index, -1, delta.get("function_call") or {})


def kind_of(call: Mapping[str, Any]) -> str:
    return next((kind for kind in PAYLOADS if kind in call), "function")


def texts_of_call(choice: int, call: int, body: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    for name in ("name", *PAYLOADS.values()):
        if body.get(name):
            yield (choice, name, call), body[name]


def can_continue(request: Mapping[str, Any], sent: Sent) -> bool:
    """Whether the text so far says all about the stream so far: one choice of plain, unconstrained text."""
    plain = set(sent.texts) <= {(0, "content", -1)}
    return plain and not is_constrained(request) and not sent.ended and not sent.others


def is_constrained(request: Mapping[str, Any]) -> bool:
    """Whether an answer is more than one text, or is held to a form: the text so far does not say how far it got."""
    forms = ("tools", "functions", "logprobs", "response_format")
    return any(request.get(name) for name in forms) or (request.get("n") or 1) > 1


class Replay:
    """Drops from a repeated stream what was sent before. `filter` raises WorkerLost where the two diverge."""

    def __init__(self, sent: Sent) -> None:
        self._due = dict(sent.texts)
        self._others = Counter(sent.others)

    def filter(self, chunk: Chunk) -> Chunk:
        """`chunk` without the text that clients have; tool call ids differ by nature, the ones sent first stay."""
        if not self._due and not self._others:
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
        if delta.get("function_call"):
            delta["function_call"], _ = self._filter_body(part["index"], -1, delta["function_call"])
        for name in delta.keys() - OF_DELTA:
            self._skip_other(part["index"], name, delta)
        if part.get("finish_reason"):
            self._expect_nothing(part["index"])
        return {**part, "delta": delta, "logprobs": None if dropped else part.get("logprobs")}

    def _filter_call(self, choice: int, call: Mapping[str, Any]) -> Mapping[str, Any] | None:
        kind = kind_of(call)
        body, seen = self._filter_body(choice, call["index"], call.get(kind) or {})
        if not seen:
            return call
        return {"index": call["index"], kind: body} if body else None

    def _filter_body(self, choice: int, call: int, body: Mapping[str, Any]) -> tuple[dict[str, Any] | None, bool]:
        """What of a call's name and text is new, and whether any was not."""
        new, seen = dict(body), False
        for place, text in texts_of_call(choice, call, body):
            new[place[1]], skipped = self._skip(place, text)
            seen |= skipped
        if seen:
            new = {name: text for name, text in new.items() if text}
        return new or None, seen

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

    def _skip_other(self, choice: int, name: str, delta: dict[str, Any]) -> None:
        """Drop from `delta` what of a field that is not text was sent: so many items of a list, so many of all else."""
        due, value = self._others[choice, name], delta[name]
        if not due:
            return
        items: list[Any] = cast(list[Any], value) if isinstance(value, list) else [value]
        skipped = min(due, len(items))
        rest = items[skipped:]
        if rest:
            delta[name] = rest
        else:
            del delta[name]
        self._others[choice, name] -= skipped
        self._others += Counter[tuple[int, str]]()

    def _expect_nothing(self, choice: int) -> None:
        if any(place[0] == choice for place in self._due):
            raise diverged()


def diverged() -> WorkerLost:
    return WorkerLost("The worker was lost, and generating again gave another answer than the part already sent.")
