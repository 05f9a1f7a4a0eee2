"""Folds a stream's chunks into one completion, equal to the engine's own unary answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from worker.stream.merge import merged

TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
"""The fields of a delta that are pieces of one text."""

PAYLOADS = {"function": "arguments", "custom": "input"}
"""For each type of tool call, the field of its text."""

OF_DELTA = frozenset({"role", "tool_calls", "function_call", *TEXTS})
OF_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason"})
OF_PLAIN_CHUNK = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint"})
OF_CHUNK = frozenset({"object", "choices", "usage"})
HEAD = frozenset({"id", "created", "model"})
"""Fields that every chunk has; the answer gets those of the first."""
OF_CALL = frozenset({"index", "id", "type", *PAYLOADS})


@dataclass(slots=True)
class FoldedCall:
    """One tool call: id, type and name come once, the text in pieces. `others`: fields that OpenAI does not name."""

    id: str | None = None
    type: str = "function"
    name: str = ""
    text: list[str] = field(default_factory=list[str])
    others: dict[str, Any] = field(default_factory=dict[str, Any])

    def add(self, part: Mapping[str, Any]) -> None:
        self.id = part.get("id") or self.id
        self.type = part.get("type") or self.type
        body: Mapping[str, Any] = part.get(self.type) or {}
        self.name = body.get("name") or self.name
        self.text.append(body.get(PAYLOADS.get(self.type, "arguments")) or "")
        self.others |= {name: value for name, value in part.items() if name not in OF_CALL}

    @property
    def body(self) -> dict[str, str]:
        return {"name": self.name, PAYLOADS.get(self.type, "arguments"): "".join(self.text)}

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "type": self.type, self.type: self.body, **self.others}


@dataclass(slots=True)
class FoldedChoice:
    texts: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    calls: dict[int, FoldedCall] = field(default_factory=dict[int, FoldedCall])
    function_call: FoldedCall | None = None
    logprobs: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    finish_reason: str | None = None
    others: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the message that are not streamed as text: audio, annotations, and unknown fields."""
    of_choice: dict[str, Any] = field(default_factory=dict[str, Any])
    """Unknown fields beside the message."""

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
        for name in delta.keys() - OF_DELTA:
            self.others[name] = merged(self.others.get(name), delta[name], name)
        for name in part.keys() - OF_CHOICE:
            self.of_choice[name] = _grown(self.of_choice.get(name), part[name])

    def to_dict(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "message": self._message(),
            "logprobs": self._logprobs(),
            "finish_reason": self.finish_reason,
            **self.of_choice,
        }

    def _message(self) -> dict[str, Any]:
        """Returns the message. `content` is null beside calls, refusals and audio; without any output it is empty."""
        texts = {name: "".join(pieces) for name, pieces in self.texts.items()}
        content = None if self.calls or self.function_call or "refusal" in texts or "audio" in self.others else ""
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        message |= texts
        if self.calls:
            message["tool_calls"] = [self.calls[index].to_dict() for index in sorted(self.calls)]
        if self.function_call:
            message["function_call"] = self.function_call.body
        message |= self.others
        if "audio" in message:
            message["audio"] = {"id": "", "data": "", "expires_at": 0, "transcript": "", **message["audio"]}
        return message

    def _logprobs(self) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return {"content": None, "refusal": None} | {name: tokens or None for name, tokens in self.logprobs.items()}


def _grown(whole: Any, piece: Any) -> Any:
    """Joins unknown fields of a choice: lists, such as token ids, come in pieces; other values come whole."""
    if not isinstance(piece, list):
        return piece
    grown: list[Any] = cast(list[Any], whole) if isinstance(whole, list) else []
    grown.extend(cast(list[Any], piece))
    return grown


def plain_text(chunk: Mapping[str, Any]) -> tuple[int, str] | None:
    """Returns the choice's index and the text of a chunk that is one piece of text and nothing else, as most are."""
    if len(chunk["choices"]) != 1 or chunk.get("usage") or (len(chunk) > 5 and not chunk.keys() <= OF_PLAIN_CHUNK):
        return None
    part = chunk["choices"][0]
    delta = part["delta"]
    if len(delta) != 1 or len(part) > 4 or part.get("finish_reason") or part.get("logprobs"):
        return None
    text = delta.get("content")
    return (part["index"], text) if text else None


class Fold:
    """Takes chunks one by one. `completion` may be read at any time, also of a stream that ended early."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, FoldedChoice] = {}
        self.usage: dict[str, Any] | None = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        for name in chunk.keys() - OF_CHUNK:
            if name not in self._head or name not in HEAD:
                self._head[name] = chunk[name]
        self.usage = chunk.get("usage") or self.usage
        for part in chunk["choices"]:
            self._choices.setdefault(part["index"], FoldedChoice()).add(part)

    def add_text(self, chunk: Mapping[str, Any], index: int, text: str) -> None:
        """Does what `add` does, faster, for a chunk that is plain text."""
        choice = self._choices.get(index)
        if choice is None or "content" not in choice.texts:
            self.add(chunk)
        else:
            choice.texts["content"].append(text)

    @property
    def finished(self) -> bool:
        """Whether at least one choice has begun, and every one that began has ended."""
        return bool(self._choices) and all(choice.finish_reason for choice in self._choices.values())

    @property
    def silent(self) -> bool:
        """Whether there is no output yet but a role."""
        return not any(
            choice.texts or choice.calls or choice.others or choice.finish_reason for choice in self._choices.values()
        )

    @property
    def plain(self) -> bool:
        """Whether the output so far is only text of an unfinished first choice."""
        return all(
            index == 0
            and choice.texts.keys() <= {"content"}
            and not (choice.calls or choice.others or choice.finish_reason)
            for index, choice in self._choices.items()
        )

    @property
    def completion(self) -> dict[str, Any]:
        choices = [self._choices[index].to_dict(index) for index in sorted(self._choices)]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self.usage}


def fold(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the completion of all chunks of a stream."""
    folding = Fold()
    for chunk in chunks:
        folding.add(chunk)
    return folding.completion
