"""Resumes a stream whose worker was lost, without contradicting bytes that the client has.

There are two ways. *Continue*: the engine gets the text so far and goes on from there (plain text only). *Replay*: the
engine generates again with the same seed, and the part that was sent is compared and dropped; where the two differ, the
stream ends with an error.
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
TextKey = tuple[int, str, int]
"""Identifies one text of a stream: choice, field, and the tool call's index (-1 outside of tool calls)."""

PREFIX = b"data: "


@dataclass(slots=True)
class Sent:
    """The chunks that earlier attempts have sent, as read from the log. `others` counts what is not text: the items of
    lists, and the pieces of other values. `progress`: the engine's own record of the answer.
    """

    chunks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    texts: dict[TextKey, str] = field(default_factory=dict[TextKey, str])
    others: Counter[tuple[int, str]] = field(default_factory=Counter[tuple[int, str]])
    begun: set[int] = field(default_factory=set[int])
    ended: set[int] = field(default_factory=set[int])
    progress: bytes = b""

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
            for key, text in texts_of(part):
                self.texts[key] = self.texts.get(key, "") + text
            for name in part["delta"].keys() - OF_DELTA:
                value = part["delta"][name]
                self.others[part["index"], name] += len(cast(list[Any], value)) if isinstance(value, list) else 1

    @property
    def text(self) -> str:
        """The first choice's content."""
        return self.texts.get((0, "content", -1), "")


def texts_of(part: Mapping[str, Any]) -> Iterator[tuple[TextKey, str]]:
    """Yields every piece of text in one choice of a chunk."""
    index, delta = part["index"], part["delta"]
    for name in TEXTS:
        if delta.get(name):
            yield (index, name, -1), delta[name]
    for call in delta.get("tool_calls") or ():
        yield from texts_of_call(index, call["index"], call.get(kind_of(call)) or {})
    yield from texts_of_call(index, -1, delta.get("function_call") or {})


def kind_of(call: Mapping[str, Any]) -> str:
    return next((kind for kind in PAYLOADS if kind in call), "function")


def texts_of_call(choice: int, call: int, body: Mapping[str, Any]) -> Iterator[tuple[TextKey, str]]:
    for name in ("name", *PAYLOADS.values()):
        if body.get(name):
            yield (choice, name, call), body[name]


def can_continue(request: Mapping[str, Any], sent: Sent) -> bool:
    """Whether an engine can go on from the text so far: one choice of plain, unconstrained text."""
    plain = set(sent.texts) <= {(0, "content", -1)}
    return plain and not is_constrained(request) and not sent.ended and not sent.others


def is_constrained(request: Mapping[str, Any]) -> bool:
    """Whether an answer is more than one text or has a required form: its text alone does not say how far it got."""
    forms = ("tools", "functions", "logprobs", "response_format")
    return any(request.get(name) for name in forms) or (request.get("n") or 1) > 1


class Replay:
    """Drops from a replayed stream what was sent before. `filter` raises WorkerLost where the two differ."""

    def __init__(self, sent: Sent) -> None:
        self._due = dict(sent.texts)
        self._others = Counter(sent.others)

    def filter(self, chunk: Chunk) -> Chunk:
        """Returns `chunk` without the text that clients have. Tool call ids differ in each run; the first ones stay."""
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
        """Returns the new part of a call's name and text, and whether a part was sent before."""
        new, seen = dict(body), False
        for key, text in texts_of_call(choice, call, body):
            new[key[1]], skipped = self._skip(key, text)
            seen |= skipped
        if seen:
            new = {name: text for name, text in new.items() if text}
        return new or None, seen

    def _skip(self, key: TextKey, text: str) -> tuple[str, bool]:
        """Returns the new part of `text`, and whether a part was sent before."""
        due = self._due.get(key, "")
        common = min(len(due), len(text))
        if due[:common] != text[:common]:
            raise diverged()
        if not common:
            return text, False
        self._due[key] = due[common:]
        if len(due) == common:
            del self._due[key]
        return text[common:], True

    def _skip_other(self, choice: int, name: str, delta: dict[str, Any]) -> None:
        """Drops from `delta` the part of a non-text field that was sent: items of a list, or whole values."""
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
        if any(key[0] == choice for key in self._due):
            raise diverged()


def diverged() -> WorkerLost:
    return WorkerLost("The worker was lost, and generating again gave another answer than the part already sent.")
