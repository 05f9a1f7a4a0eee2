"""Normalizes the deltas of one choice's tool calls: indices from 0, one stable id per call, type and name sent once,
arguments as text.

Index and id together decide to which call a delta belongs, because servers omit, repeat or change either of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from worker.engines.openai.failures import malformed
from worker.engines.openai.normalizing.json_text import is_strict
from worker.engines.openai.normalizing.snapshots import TextPieces

Delta = dict[str, Any]
PAYLOADS = {"function": "arguments", "custom": "input"}
"""The text field of each type of call."""
ENDS = ("}", "]", '"', " ", "\n")
MOST = 1024
"""Most calls of one message: a server that sends more is assumed never to stop."""


@dataclass(slots=True)
class _Call:
    """`index` and `raw_id` are the server's. The call gets its `number` and is sent once its name is known; its text is
    buffered until then.
    """

    index: int | None
    raw_id: Any
    id: str
    type: str
    name: str = ""
    number: int | None = None
    text: str = ""
    waiting: str = ""
    pieces: TextPieces = field(default_factory=lambda: TextPieces(is_json=True))

    @property
    def is_whole(self) -> bool:
        """Whether the text so far is complete, so that the next text belongs to another call."""
        return self.text.endswith(ENDS) and is_strict(self.text.encode(errors="replace"))

    def is_followed_by(self, text: str) -> bool:
        """Whether `text` begins another call's arguments: Google sends all calls with the first index and
        without ids.
        """
        return text.startswith("{") and text.strip() != self.text.strip() and self.is_whole

    def add(self, text: str) -> str:
        """Returns the new part of `text`. Drops an empty object at the beginning of the arguments."""
        if not self.text and text.startswith("{}"):
            text = text[2:]
        if len(text) > 1 and text.startswith("{") and text.strip() == self.text.strip() and self.is_whole:
            return ""
        new = self.pieces.add(text)
        self.text += new
        return new

    def rest(self) -> str:
        """Returns the buffered text."""
        new = self.pieces.rest()
        self.text += new
        return new


class ToolCalls:
    """One choice's calls. `add` returns the deltas to send, `rest` the remaining ones at the end."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    def __bool__(self) -> bool:
        return any(call.number is not None for call in self._calls)

    def add(self, deltas: Any) -> list[Delta]:
        if isinstance(deltas, dict):
            deltas = [deltas]
        if not isinstance(deltas, list):
            raise malformed("`tool_calls` is not a list", deltas)
        sent = [self._add(delta) for delta in cast(list[Any], deltas) if delta is not None]
        return [delta for delta in sent if delta]

    def rest(self) -> list[Delta]:
        """Returns calls that never got a name, and an empty object for calls without arguments."""
        sent: list[Delta] = []
        for call in self._calls:
            text = call.rest()
            if call.number is None:
                call.waiting += text
                if call.waiting:
                    sent.append(self._begun(call, {}))
            elif rest := text or ("" if call.text or call.type == "custom" else "{}"):
                sent.append({"index": call.number, call.type: {PAYLOADS[call.type]: rest}})
        return sent

    def _add(self, raw: Any) -> Delta | None:
        if not isinstance(raw, dict):
            raise malformed("a tool call is not an object", raw)
        delta = cast(dict[str, Any], raw)
        kind = _kind(delta)
        body = _body(delta, kind)
        name, text = body.get("name"), _text(body.get(PAYLOADS[kind], body.get("arguments")))
        name = name if isinstance(name, str) else ""
        call = self._call_of(delta, name, text) or self._new(delta, kind)
        call.name = call.name or name
        text = call.add(text)
        extra = _extra(delta, body, kind)
        if call.number is not None:
            return self._continued(call, text, extra)
        call.waiting += text
        return self._begun(call, extra) if call.name else None

    def _call_of(self, delta: Mapping[str, Any], name: str, text: str) -> _Call | None:
        """Returns the call that the delta continues; None for a new call."""
        index, raw_id = _index(delta.get("index")), _identity(delta.get("id"))
        by_id = self._last(lambda call: raw_id is not None and call.raw_id == raw_id)
        if by_id is not None and index in (None, by_id.index):
            return by_id
        if index is None:
            return self._unnumbered(raw_id, name)
        found = self._last(lambda call: call.index == index)
        if found is None:
            return None if raw_id is not None or name or not self._calls else self._calls[-1]
        if not name:
            return found
        if raw_id is None or found.raw_id is None:
            return None if found.is_followed_by(text) else found
        return None if _may_be_over(found) else found

    def _unnumbered(self, raw_id: Any, name: str) -> _Call | None:
        """Returns the last call for a delta without an index and a known id; None if the delta begins a new call."""
        last = self._calls[-1] if self._calls else None
        if last is None or (name and last.name and (raw_id is not None or _may_be_over(last))):
            return None
        return last

    def _last(self, wanted: Callable[[_Call], bool]) -> _Call | None:
        return next((call for call in reversed(self._calls) if wanted(call)), None)

    def _new(self, delta: Mapping[str, Any], kind: str) -> _Call:
        raw_id = _identity(delta.get("id"))
        if len(self._calls) >= MOST:
            raise malformed(f"it makes more than {MOST:,} tool calls", delta)
        taken = {call.id for call in self._calls}
        own = raw_id if isinstance(raw_id, str) and raw_id not in taken else f"call_{os.urandom(12).hex()}"
        call = _Call(_index(delta.get("index")), raw_id, own, type=kind)
        self._calls.append(call)
        return call

    def _begun(self, call: _Call, extra: Delta) -> Delta:
        call.number = sum(other.number is not None for other in self._calls)
        body = {"name": call.name, PAYLOADS[call.type]: call.waiting}
        return {"index": call.number, "id": call.id, "type": call.type, call.type: body, **extra}

    def _continued(self, call: _Call, text: str, extra: Delta) -> Delta | None:
        if not (text or extra):
            return None
        body = {call.type: {PAYLOADS[call.type]: text}} if text else {}
        return {"index": call.number, **body, **extra}


def _kind(delta: Mapping[str, Any]) -> str:
    return "custom" if delta.get("type") == "custom" or isinstance(delta.get("custom"), dict) else "function"


def _body(delta: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Returns the call's name and arguments: under its type, or in the delta itself if the server omits that level."""
    body = delta.get(kind)
    if body is None:
        return {key: delta[key] for key in ("name", "arguments", "input") if key in delta}
    if not isinstance(body, dict):
        raise malformed(f"a tool call's `{kind}` is not an object", delta)
    return cast(dict[str, Any], body)


def _extra(delta: Mapping[str, Any], body: Mapping[str, Any], kind: str) -> Delta:
    """Returns fields outside of OpenAI's API, such as Google's thought signature, which the next request must
    contain.
    """
    known = {"index", "id", "type", kind, *(("name", "arguments", "input") if delta.get(kind) is None else ())}
    return {key: value for key, value in delta.items() if key not in known and value is not None}


def _may_be_over(call: _Call) -> bool:
    return call.is_whole or not call.text


def _index(index: Any) -> int | None:
    if isinstance(index, str) and index.isdecimal():
        return int(index[:9])
    return index if isinstance(index, int) and not isinstance(index, bool) and index >= 0 else None


def _identity(raw: Any) -> str | int | float | None:
    return raw if isinstance(raw, (str, int, float)) and not isinstance(raw, bool) and raw != "" else None


def _text(value: Any) -> str:
    """Returns arguments as text; some servers send an object."""
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
