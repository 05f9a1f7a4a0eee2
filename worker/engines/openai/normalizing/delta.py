"""Normalizes the deltas of one choice's message: known fields get OpenAI's types, unknown fields stay unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from worker.engines.openai.failures import malformed
from worker.engines.openai.normalizing.json_text import REPLACEMENT, scrubbed
from worker.engines.openai.normalizing.snapshots import TextPieces
from worker.engines.openai.normalizing.tool_calls import Delta, ToolCalls

TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
"""Fields whose deltas are pieces of a text."""


class MessagePieces:
    """Normalizes raw deltas and raw messages. A message is one delta with the complete content."""

    def __init__(self) -> None:
        self.calls = ToolCalls()
        self.has_function_call = False
        self.takes_plain_text = False
        """Whether a piece of content needs no normalization: nothing is buffered, and the server sends pieces, not
        snapshots.
        """
        self._halves: dict[str, str] = {}
        self._texts = {name: TextPieces() for name in TEXTS}
        self._others: set[str] = set()

    def add_message(self, raw: Mapping[str, Any], *, strict: bool) -> Delta:
        """Returns the new fields of a complete message that follows its deltas: MiniMax ends streams with one."""
        seen = {name for name, text in self._texts.items() if text.begun} | self._others
        if self.calls:
            seen.add("tool_calls")
        if self.has_function_call:
            seen.add("function_call")
        return self.add({name: value for name, value in raw.items() if name not in seen}, strict=strict)

    def add_plain_text(self, text: str) -> None:
        """Records a piece of content that is passed on unchanged."""
        self._texts["content"].pass_on(text)

    def add(self, raw: Mapping[str, Any], *, strict: bool, is_last: bool = False) -> Delta:
        """Returns the delta to pass on. `strict`: `raw` has no lone surrogates. `is_last`: it has a finish_reason."""
        found: Delta = {}
        if raw.get("role") is not None:
            found["role"] = "assistant"
        for name in TEXTS:
            self._add_text(name, raw.get(name), found)
            if is_last and self._texts[name].is_repeated_by(found.get(name, "")):
                del found[name]
        self._take_new(found)
        if raw.get("function_call"):
            self._add_function_call(raw["function_call"], found)
        if raw.get("tool_calls") and (calls := self.calls.add(raw["tool_calls"])):
            found["tool_calls"] = calls
        for name, value in raw.items():
            if name in KNOWN or value in EMPTY or (checked := _of_type(name, value)) in EMPTY:
                continue
            found[name] = checked
            self._others.add(name)
        if not strict or self._halves:
            found = self._with_whole_characters(found)
        self.takes_plain_text = self._texts["content"].settled and not self._halves and not self._waiting()
        return found

    def rest(self) -> Delta:
        """Returns the buffered rest at the end of the answer."""
        found: Delta = {name: scrubbed(rest) for name, text in self._texts.items() if (rest := text.rest())}
        for name, half in self._halves.items():
            found[name] = found.get(name, "") + (REPLACEMENT if half else "")
        self._halves.clear()
        if calls := self.calls.rest():
            found["tool_calls"] = calls
        return found

    def _waiting(self) -> list[str]:
        return [name for name, text in self._texts.items() if text.waits]

    def _take_new(self, found: Delta) -> None:
        """Replaces each text by its new part. When a text continues, the other texts' buffered parts are released."""
        for name in TEXTS:
            if found.get(name):
                found[name] = self._texts[name].add(found[name])
                for other in self._waiting():
                    if other != name:
                        found[other] = self._texts[other].rest()

    def _add_text(self, name: str, value: Any, found: Delta) -> None:
        if value is None:
            return
        if isinstance(value, str):
            found[name] = found.get(name, "") + value
        elif isinstance(value, (list, dict)):
            self._add_parts(name, cast(Any, value), found)
        else:
            raise malformed(f"`{name}` is not text", value)

    def _add_parts(self, name: str, value: Any, found: Delta) -> None:
        """Adds content that is a list of typed parts, as Mistral sends it: each kind of text has its own field."""
        parts = cast(list[Any], value if isinstance(value, list) else [value])
        for part in parts:
            target, text = (name, part) if isinstance(part, str) else _part(name, part)
            if text is None:
                found.setdefault("content_parts", []).append(part)
            else:
                found[target] = found.get(target, "") + text

    def _add_function_call(self, raw: Any, found: Delta) -> None:
        if not isinstance(raw, dict):
            raise malformed("`function_call` is not an object", raw)
        call = cast(dict[str, Any], raw)
        name, arguments = call.get("name"), call.get("arguments")
        piece: Delta = {"name": name} if isinstance(name, str) and name and not self.has_function_call else {}
        if arguments is not None:
            piece["arguments"] = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        if piece:
            self.has_function_call = True
            found["function_call"] = piece

    def _with_whole_characters(self, delta: Delta) -> Delta:
        """Joins characters that a server splits into two surrogates in two chunks. Buffers the first half."""
        for name in TEXTS:
            text = delta.get(name)
            if isinstance(text, str) and text:
                whole = _joined(self._halves.pop(name, "") + text)
                if "\ud800" <= whole[-1] <= "\udbff":
                    self._halves[name], whole = whole[-1], whole[:-1]
                delta[name] = scrubbed(whole)
        return {name: value if name in TEXTS else scrubbed(value) for name, value in delta.items()}


EMPTY: tuple[Any, ...] = (None, "", [], {})

KNOWN = frozenset({"role", "function_call", "tool_calls", *TEXTS})


AUDIO: Mapping[str, type] = {"id": str, "data": str, "transcript": str, "expires_at": int}
CITATION: Mapping[str, type] = {"url": str, "title": str, "start_index": int, "end_index": int}
"""OpenAI's types of the fields of an answer's audio and of a citation."""


def _of_type(name: str, value: Any) -> Any:
    """Returns the value of a field that is passed on. Raises EngineError if OpenAI's type of the field is another."""
    if name == "audio":
        return _audio(value)
    if name == "annotations":
        return _annotations(value)
    return value


def _audio(value: Any) -> Any:
    if not isinstance(value, dict):
        raise malformed("`audio` is not an object", value)
    found = {name: item for name, item in cast(dict[str, Any], value).items() if item is not None}
    for name, kind in AUDIO.items():
        if name in found and type(found[name]) is not kind:
            raise malformed(f"`audio.{name}` is not of its type", value)
    return found


def _annotations(value: Any) -> list[Any]:
    """Returns the annotations without those that are no annotations: the answer is complete without them. OpenAI has
    one kind, citations; other kinds stay unchanged.
    """
    if not isinstance(value, list):
        raise malformed("`annotations` is not a list", value)
    found: list[Any] = []
    for each in cast(list[Any], value):
        entry = cast(dict[str, Any], each) if isinstance(each, dict) else {}
        kind = entry.get("type") or "url_citation"
        if kind != "url_citation" and isinstance(kind, str):
            found.append(entry)
        elif kind == "url_citation" and _is_citation(entry.get("url_citation")):
            found.append({**entry, "type": kind})
    return found


def _is_citation(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    citation = cast(dict[str, Any], value)
    return all(type(citation.get(name)) is kind for name, kind in CITATION.items())


def _part(name: str, part: Any) -> tuple[str, str | None]:
    """Returns the field of a part's text, and the text; None for a part that is not text."""
    if not isinstance(part, dict):
        raise malformed(f"a part of `{name}` is not an object", part)
    found = cast(dict[str, Any], part)
    kind = str(found.get("type", "text"))
    if kind in ("thinking", "reasoning"):
        return "reasoning_content", _text_of(found.get("thinking", found.get("text", found.get("reasoning"))))
    if kind == "refusal":
        return "refusal", _text_of(found.get("refusal"))
    if kind in ("text", "output_text", "summary_text") or (name != "content" and "text" in found):
        return name, _text_of(found.get("text"))
    return name, None


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_text_of(item) for item in cast(list[Any], value))
    if isinstance(value, dict):
        return _text_of(cast(dict[str, Any], value).get("text"))
    return ""


def _joined(text: str) -> str:
    """Joins adjacent surrogate halves into characters."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
