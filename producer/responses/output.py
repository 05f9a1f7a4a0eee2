"""The items of a response's output while they grow. Pure.

Texts are kept as JSON, escaped and without quotes: pieces of the log go into events and items unparsed, and a reader of
a long stream costs its API little more memory than the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

PartKind = Literal["output_text", "refusal", "reasoning_text"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

TEXT_FIELD: Mapping[PartKind, str] = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text"}


def escaped(text: str) -> bytes:
    """Returns the text as a piece of a JSON string."""
    return orjson.dumps(text)[1:-1]


def quoted(text: bytes | bytearray) -> orjson.Fragment:
    """Returns the JSON string of an escaped text."""
    return orjson.Fragment(b'"%b"' % text)


def listed(items: bytes | bytearray) -> orjson.Fragment:
    """Returns the JSON array of encoded items, each with a comma behind it."""
    return orjson.Fragment(b"[%b]" % items[:-1])


@dataclass(slots=True)
class TextPart:
    kind: PartKind
    escaped: bytearray = field(default_factory=bytearray)
    encoded_logprobs: bytearray = field(default_factory=bytearray)

    @property
    def text(self) -> orjson.Fragment:
        return quoted(self.escaped)

    @property
    def logprobs(self) -> orjson.Fragment:
        return listed(self.encoded_logprobs)

    def add_logprobs(self, logprobs: list[dict[str, Any]]) -> None:
        for each in logprobs:
            self.encoded_logprobs += orjson.dumps(each) + b","

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": self.kind, TEXT_FIELD[self.kind]: self.text}
        if self.kind == "output_text":
            found |= {"annotations": [], "logprobs": self.logprobs}
        return found


@dataclass(slots=True)
class TextItem:
    """A message, or reasoning."""

    id: str
    kind: Literal["message", "reasoning"]
    index: int
    parts: list[TextPart] = field(default_factory=list[TextPart])
    status: ItemStatus = "in_progress"

    def to_dict(self) -> dict[str, Any]:
        content = [part.to_dict() for part in self.parts]
        if self.kind == "reasoning":
            return {"id": self.id, "type": "reasoning", "summary": [], "content": content, "status": self.status}
        about = {"id": self.id, "type": "message", "role": "assistant", "status": self.status}
        return {**about, "content": content}


@dataclass(slots=True)
class CallItem:
    """A call of a function or of a custom tool. Its id and name come before its text."""

    id: str
    kind: Literal["function_call", "custom_tool_call"]
    index: int
    call_id: str
    name: str
    escaped: bytearray = field(default_factory=bytearray)
    status: ItemStatus = "in_progress"

    @property
    def field(self) -> str:
        return "arguments" if self.kind == "function_call" else "input"

    @property
    def text(self) -> orjson.Fragment:
        return quoted(self.escaped)

    def to_dict(self) -> dict[str, Any]:
        called = {"id": self.id, "type": self.kind, "call_id": self.call_id, "name": self.name}
        found = {**called, self.field: self.text}
        return found | ({"status": self.status} if self.kind == "function_call" else {})


OutputItem = TextItem | CallItem


def response_logprobs(logprobs: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Returns chat's log probabilities of content as responses have them: `bytes` is always there."""
    return [
        {**with_bytes(token), "top_logprobs": [with_bytes(other) for other in token.get("top_logprobs") or ()]}
        for token in (logprobs or {}).get("content") or ()
    ]


def with_bytes(token: Mapping[str, Any]) -> dict[str, Any]:
    raw = token.get("bytes")
    return {
        "token": token["token"],
        "logprob": token["logprob"],
        "bytes": list(str(token["token"]).encode()) if raw is None else raw,
    }
