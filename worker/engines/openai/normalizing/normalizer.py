"""Translates an answer's events into valid chunks: OpenAI's types, one finish_reason per choice, and usage at the end.

The rest of the worker relies on this and checks no chunks. Chunks with only text, the great majority, pass unchanged.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from shared.errors import EngineError
from worker.engines.base import Chunk
from worker.engines.openai.failures import in_band, malformed
from worker.engines.openai.normalizing import logprobs, usage
from worker.engines.openai.normalizing.delta import MessagePieces
from worker.engines.openai.normalizing.finish_reasons import FAILED, meaning_of
from worker.engines.openai.normalizing.json_text import NotJson, decode, is_shallow, scrubbed
from worker.engines.openai.normalizing.token_ids import TOKEN_IDS, TokenIds
from worker.engines.openai.retry_after import WAIT_FIELDS
from worker.engines.openai.sse import FailureEvent

HEAD = ("id", "object", "created", "model")
HANDLED_FIELDS = frozenset({*HEAD, "choices", "usage", "error", "service_tier"})
PLAIN_CHUNK = frozenset({*HEAD, "choices", "system_fingerprint", "usage"})
PLAIN_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason"})
PLAIN_CHOICE_WITH_IDS = PLAIN_CHOICE | {TOKEN_IDS}
OF_CHOICE = frozenset({"index", "delta", "message", "text", "logprobs", "finish_reason", "error"})
DONE = (b"[done]", b'"[done]"', b"done")
"""In lower case."""
KEEP_ALIVES = frozenset({"ping", "pong", "heartbeat", "keepalive", "keep-alive", "keep_alive", "processing"})


@dataclass(slots=True)
class _Choice:
    index: int
    message: MessagePieces = field(default_factory=MessagePieces)
    finish_reason: str | None = None
    is_whole: bool = False
    has_deltas: bool = False
    extras: dict[str, Any] = field(default_factory=dict[str, Any])


class Normalizer:
    """Normalizes one answer with `choices` choices. Call `add` for each event's data (or for a whole body), then `end`.

    `names_tool`: the request names a tool to call; OpenAI's finish_reason is `stop` then. `takes_ids`: the worker has
    requested the tokens' ids; they become `prompt_token_ids` and `token_ids` of the normalized chunk.
    Raises EngineRefused and EngineError, with the beginning of the received data.
    """

    def __init__(self, choices: int = 1, *, names_tool: bool = False, takes_ids: bool = False) -> None:
        self._wanted = choices
        self._ids = TokenIds() if takes_ids else None
        self._plain_choice = PLAIN_CHOICE_WITH_IDS if takes_ids else PLAIN_CHOICE
        self._names_tool = names_tool
        self._choices: dict[int, _Choice] = {}
        self._indices: dict[int, int] = {}
        self._head: Chunk = {}
        self._extras: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None
        self._counted = 0
        self._done = False
        self._last: bytes = b""

    @property
    def done(self) -> bool:
        """Whether the server has sent `[DONE]`."""
        return self._done

    @property
    def finished(self) -> bool:
        """Whether every requested choice has ended."""
        return len(self._choices) >= self._wanted and all(
            choice.finish_reason or choice.is_whole for choice in self._choices.values()
        )

    @property
    def missing(self) -> int:
        """The number of requested choices that the server has not begun; some servers ignore `n`."""
        return max(0, self._wanted - len(self._choices))

    def add(self, data: bytes) -> list[Chunk]:
        """Returns the chunks of one event, in order. Most events have one."""
        word = data.strip()
        if len(word) < 9 and word.lower() in DONE:
            self._done = True
            return []
        if not word or self._done:
            return []
        self._last = data
        try:
            values, strict = decode(data)
        except NotJson:
            return self._not_json(word)
        if isinstance(data, FailureEvent):
            raise in_band(values[0])
        if strict and self._takes_plain(values[0]):
            self._counted += 1
            if self._ids is not None:
                self._ids.take(values[0]["choices"][0])
                return [values[0] | self._ids.taken()]
            return values
        if not is_shallow(data, values):
            raise malformed("an event is nested too deeply", data)
        return [chunk for value in values for chunk in self._value(value, strict)]

    def _not_json(self, word: bytes) -> list[Chunk]:
        """Handles data that is not JSON: comments, keep-alives, and events nested in the `data` of an event."""
        if word.startswith(b":") or word.decode(errors="replace").lower() in KEEP_ALIVES:
            return []
        if word.startswith(b"data:"):
            return self.add(word[5:])
        raise malformed("an event is not JSON", word)

    def end(self) -> Iterator[Chunk]:
        """Yields the last chunk of each choice, then the usage. Raises EngineError if the answer is incomplete."""
        if not self._choices:
            raise malformed("its answer has no choices", self._last)
        for choice in self._choices.values():
            choice.finish_reason = choice.finish_reason or self._end_of(choice)
        for index in sorted(self._choices):
            yield from self._finish(self._choices[index])
        counted = usage.completed(self._usage, self._counted)
        yield {**self._head, **self._extras, "choices": [], "usage": counted}

    def _takes_plain(self, value: Any) -> bool:
        """Whether a chunk has only one piece of text, for a choice that has begun. Counts such a chunk."""
        if type(value) is not dict or not self._choices or not value.keys() <= PLAIN_CHUNK:  # pyright: ignore[reportUnknownMemberType]
            return False
        chunk = cast(dict[str, Any], value)
        choices = chunk.get("choices")
        if type(choices) is not list or len(cast(list[Any], choices)) != 1 or chunk.get("usage"):
            return False
        choice = cast(Any, choices[0])
        if type(choice) is not dict or not choice.keys() <= self._plain_choice or choice.get("finish_reason"):  # pyright: ignore[reportUnknownMemberType]
            return False
        part = cast(dict[str, Any], choice)
        delta, index = part.get("delta"), part.get("index")
        if not (
            type(index) is int
            and self._indices.get(index) == index
            and not part.get("logprobs")
            and type(delta) is dict
            and len(cast(dict[str, Any], delta)) == 1
            and type(text := cast(dict[str, Any], delta).get("content")) is str
            and text != ""
            and (message := self._choices[index].message).takes_plain_text
        ):
            return False
        message.add_plain_text(text)
        return True

    def _value(self, value: Any, strict: bool) -> Iterator[Chunk]:
        """Yields the chunks of a decoded value. Keep-alives such as `null` and `{}` have none."""
        if not value:
            return
        if isinstance(value, list):
            for item in cast(list[Any], value):
                yield from self._value(item, strict)
        elif isinstance(value, dict):
            yield from self._chunk(cast(dict[str, Any], value), strict)
        elif not (isinstance(value, str) and value.lower() in KEEP_ALIVES):
            raise malformed("an event is not an object", value)

    def _chunk(self, chunk: dict[str, Any], strict: bool) -> Iterator[Chunk]:
        _raise_failure(chunk)
        if not self._head and chunk.get("choices"):
            self._head = _head(chunk)
        self._usage = usage.in_chunk(chunk) or self._usage
        if self._ids is not None:
            self._ids.take(chunk)
            for raw in _choices(chunk):
                self._ids.take(raw)
        extras = self._new_extras(chunk, strict)
        parts = [self._part(raw, at, strict) for at, raw in enumerate(_choices(chunk)) if raw is not None]
        found = [part for part in parts if part]
        if found:
            ids = self._ids.taken() if self._ids is not None else {}
            yield {**self._head, **extras, "choices": found, **ids}

    def _new_extras(self, chunk: Mapping[str, Any], strict: bool) -> dict[str, Any]:
        """Returns a chunk's fields outside of OpenAI's API that have changed: some servers repeat them in every
        chunk.
        """
        if chunk.keys() <= HANDLED_FIELDS:
            return {}
        extras = {
            name: value if strict else scrubbed(value)
            for name, value in chunk.items()
            if name not in HANDLED_FIELDS and value not in (None, "", [], {}) and self._extras.get(name) != value
        }
        self._extras |= extras
        return extras

    def _part(self, raw: Any, at: int, strict: bool) -> dict[str, Any] | None:
        """Returns a choice's part of a chunk; None if it is empty, or if the choice was not requested."""
        if not isinstance(raw, dict):
            raise malformed("a choice is not an object", raw)
        part = cast(dict[str, Any], raw)
        if part.get("error"):
            raise in_band(part["error"])
        choice = self._choice(part.get("index"), at)
        if choice is None:
            return None
        reason = meaning_of(part.get("finish_reason"))
        message, is_repetition = _message(part, choice)
        if is_repetition:
            delta = choice.message.add_message(message, strict=strict)
        else:
            delta = choice.message.add(message, strict=strict, is_last=reason is not None)
        probabilities = logprobs.normalized(part.get("logprobs"))
        extras = {
            name: value if strict else scrubbed(value)
            for name, value in part.items()
            if name not in OF_CHOICE and value not in (None, [], {})
        }
        if reason is not None:
            choice.finish_reason = _reason(reason, part)
            choice.extras |= extras
            extras = {}
        if not (delta or probabilities or extras):
            return None
        self._counted += any(value for name, value in delta.items() if name != "role")
        return {
            "index": choice.index,
            "delta": delta,
            "logprobs": probabilities if strict else scrubbed(probabilities),
            "finish_reason": None,
            **extras,
        }

    def _choice(self, raw: Any, at: int) -> _Choice | None:
        if isinstance(raw, str) and raw.isdecimal():
            raw = int(raw[:9])
        number = raw if isinstance(raw, int) and not isinstance(raw, bool) and raw >= 0 else at
        if number not in self._indices:
            if len(self._indices) >= self._wanted:
                return None
            index = number if number < self._wanted else len(self._indices)
            self._indices[number] = index
            self._choices[index] = _Choice(index)
        return self._choices[self._indices[number]]

    def _end_of(self, choice: _Choice) -> str:
        """Returns the finish_reason of a choice that ended without one. Raises EngineError if it may be incomplete."""
        if not (choice.is_whole or (self._done and self._usage is not None)):
            raise EngineError("The engine's stream ended before its answer was complete.")
        return "stop"

    def _finish(self, choice: _Choice) -> Iterator[Chunk]:
        if rest := choice.message.rest():
            part = {"index": choice.index, "delta": rest, "logprobs": None, "finish_reason": None}
            yield {**self._head, "choices": [part]}
        end = {
            "index": choice.index,
            "delta": dict[str, Any](),
            "logprobs": None,
            "finish_reason": self._final_reason(choice),
        }
        yield {**self._head, "choices": [{**end, **choice.extras}]}

    def _final_reason(self, choice: _Choice) -> str | None:
        """Returns the finish_reason to send: `tool_calls` if, and only if, the choice has tool calls."""
        reason = choice.finish_reason
        if choice.message.calls and reason in ("stop", "function_call"):
            return "stop" if self._names_tool else "tool_calls"
        if choice.message.has_function_call and reason in ("stop", "tool_calls"):
            return "function_call"
        if reason in ("tool_calls", "function_call") and not (choice.message.calls or choice.message.has_function_call):
            return "stop"
        return reason


def _choices(chunk: Mapping[str, Any]) -> list[Any]:
    choices = chunk.get("choices")
    if choices is None:
        return []
    if isinstance(choices, dict):
        return [cast(Any, choices)]
    if not isinstance(choices, list):
        raise malformed("`choices` is not a list", chunk)
    return cast(list[Any], choices)


def _message(part: Mapping[str, Any], choice: _Choice) -> tuple[Mapping[str, Any], bool]:
    """Returns a choice's delta, or a complete message, or the text of the older completions API; and whether it is a
    complete message that repeats earlier deltas.
    """
    delta = part.get("delta")
    if isinstance(delta, dict):
        choice.has_deltas = True
        return cast(dict[str, Any], delta), False
    if isinstance(delta, str):
        choice.has_deltas = True
        return {"content": delta}, False
    if delta is not None:
        raise malformed("a choice's `delta` is not an object", part)
    message = part.get("message")
    if isinstance(message, (dict, str)):
        choice.is_whole = True
        found: dict[str, Any] = {"content": message} if isinstance(message, str) else cast(dict[str, Any], message)
        return found, choice.has_deltas
    if isinstance(part.get("text"), str):
        return {"content": part["text"]}, False
    return {}, False


def _reason(meaning: str, part: Mapping[str, Any]) -> str:
    if meaning == FAILED:
        raise EngineError(f"The engine aborted the answer: its finish_reason is {part['finish_reason']!r}.")
    return meaning


def _head(chunk: Mapping[str, Any]) -> Chunk:
    """Returns the fields that all chunks share, with defaults for missing ones."""
    created = chunk.get("created")
    return {
        "id": str(chunk.get("id") or f"chatcmpl-{uuid.uuid4().hex}"),
        "object": "chat.completion.chunk",
        "created": int(created) if isinstance(created, (int, float)) and created else int(time.time()),
        "model": str(chunk.get("model") or ""),
    }


def _raise_failure(chunk: dict[str, Any]) -> None:
    error = chunk.get("error")
    if error and (not isinstance(error, dict) or any(cast(dict[str, Any], error).values())):
        raise in_band(chunk if WAIT_FIELDS & chunk.keys() else cast(Any, error))
    if chunk.get("object") == "error" or chunk.get("type") == "error":
        raise in_band(chunk)
    if chunk.get("choices") or "usage" in chunk:
        return
    if any(chunk.get(key) for key in ("detail", "message", "msg", "errors")):
        raise in_band(chunk)
    status = chunk.get("base_resp")  # MiniMax's
    if isinstance(status, dict) and cast(dict[str, Any], status).get("status_code"):
        raise in_band(cast(Any, status))
