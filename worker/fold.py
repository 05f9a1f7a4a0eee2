"""A stream's chunks folded into the one completion they stand for: equal to what the engine's own unary answer would
be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
"""The deltas that come as pieces of one text."""


@dataclass(slots=True)
class FoldedCall:
    """One tool call: id, type and name come once, the arguments in pieces."""

    id: str | None = None
    type: str = "function"
    name: str = ""
    arguments: list[str] = field(default_factory=list[str])

    def add(self, part: Mapping[str, Any]) -> None:
        function: Mapping[str, Any] = part.get("function") or {}
        self.id = part.get("id") or self.id
        self.type = part.get("type") or self.type
        self.name = function.get("name") or self.name
        self.arguments.append(function.get("arguments") or "")

    @property
    def function(self) -> dict[str, str]:
        return {"name": self.name, "arguments": "".join(self.arguments)}

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "type": self.type, "function": self.function}


@dataclass(slots=True)
class FoldedChoice:
    texts: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    calls: dict[int, FoldedCall] = field(default_factory=dict[int, FoldedCall])
    function_call: FoldedCall | None = None
    logprobs: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    finish_reason: str | None = None

    def add(self, part: Mapping[str, Any]) -> None:
        delta = part["delta"]
        for name in TEXTS:
            if delta.get(name):
                self.texts.setdefault(name, []).append(delta[name])
        for call in delta.get("tool_calls") or ():
            self.calls.setdefault(call["index"], FoldedCall()).add(call)
        if delta.get("function_call"):
            self.function_call = self.function_call or FoldedCall()
            self.function_call.add({"function": delta["function_call"]})
        logprobs: Mapping[str, list[Any] | None] = part.get("logprobs") or {}
        for name, tokens in logprobs.items():
            self.logprobs.setdefault(name, []).extend(tokens or ())
        self.finish_reason = part.get("finish_reason") or self.finish_reason

    def to_dict(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "message": self._message(),
            "logprobs": self._logprobs(),
            "finish_reason": self.finish_reason,
        }

    def _message(self) -> dict[str, Any]:
        """A tool call without words has no content; words that never came are an empty text."""
        texts = {name: "".join(pieces) for name, pieces in self.texts.items()}
        content = None if self.calls or self.function_call else ""
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        message |= texts
        if self.calls:
            message["tool_calls"] = [self.calls[index].to_dict() for index in sorted(self.calls)]
        if self.function_call:
            message["function_call"] = self.function_call.function
        return message

    def _logprobs(self) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return {"content": None, "refusal": None} | {name: tokens or None for name, tokens in self.logprobs.items()}


def plain_text(chunk: Mapping[str, Any]) -> tuple[int, str] | None:
    """The choice and the text of a chunk that is one piece of text and nothing else, as most are."""
    if len(chunk["choices"]) != 1 or chunk.get("usage"):
        return None
    part = chunk["choices"][0]
    delta = part["delta"]
    if len(delta) != 1 or part.get("finish_reason") or part.get("logprobs"):
        return None
    text = delta.get("content")
    return (part["index"], text) if text else None


class Fold:
    """Takes chunks one by one; `completion` can be asked for at any time, also of a stream that ended early."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, FoldedChoice] = {}
        self.usage: dict[str, Any] | None = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        if not self._head:
            self._head = {key: value for key, value in chunk.items() if key not in ("object", "choices", "usage")}
        self.usage = chunk.get("usage") or self.usage
        for part in chunk["choices"]:
            self._choices.setdefault(part["index"], FoldedChoice()).add(part)

    def add_text(self, chunk: Mapping[str, Any], index: int, text: str) -> None:
        """As `add`, of a chunk that is plain text."""
        choice = self._choices.get(index)
        if choice is None or "content" not in choice.texts:
            self.add(chunk)
        else:
            choice.texts["content"].append(text)

    @property
    def finished(self) -> bool:
        """Whether every choice that began has ended, and one has."""
        return bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())

    @property
    def silent(self) -> bool:
        """Whether nothing has been said but who speaks."""
        return not any(choice.texts or choice.calls or choice.finish_reason for choice in self._choices.values())

    @property
    def plain(self) -> bool:
        """Whether all that has been said is the text of an unfinished first choice."""
        return all(
            index == 0 and choice.texts.keys() <= {"content"} and not choice.calls and not choice.finish_reason
            for index, choice in self._choices.items()
        )

    @property
    def completion(self) -> dict[str, Any]:
        choices = [self._choices[index].to_dict(index) for index in sorted(self._choices)]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self.usage}


def fold(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All chunks of a stream at once."""
    folding = Fold()
    for chunk in chunks:
        folding.add(chunk)
    return folding.completion
