"""Where llama.cpp's server departs from OpenAI's API, corrected on the way in and on the way out. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from shared.errors import EngineError, EngineRefused, IgniteError
from worker.engines.base import Chunk, Request
from worker.engines.continuation import LIMITS
from worker.engines.llamacpp.json_schema import for_grammar
from worker.openai.allowed_tools import only, tool_name

MAX_TOKENS = 2**31 - 1
"""llama.cpp's integers have 32 bits, and it takes the rest of a greater one for what was meant."""

RANDOM_SEED = 2**32 - 1
"""What llama.cpp takes for "none was given"."""

CHOICES = {"n", "n_cmpl"}
"""Both say how many there are; each is asked for alone."""


def request_per_choice(request: Request) -> list[Request]:
    """One request for each of `n` choices.

    llama.cpp takes no more choices than it has slots, waits until that many are free at once, and counts the
    tokens of one only. Each choice gets its own seed, or all would be the same.
    """
    corrected = _correct(request)
    seed, choices = corrected.get("seed"), range(request.get("n") or 1)
    if seed is None:
        return [corrected for _ in choices]
    return [{**corrected, "seed": (seed + index) % RANDOM_SEED} for index in choices]


def _correct(request: Request) -> Request:
    others = request.keys() - CHOICES - SCHEMAS.keys()
    corrected = {key: _shallow(_without_nulls, request[key], key) for key in others} | _schemas(request)
    corrected = {key: value for key, value in corrected.items() if value is not None}
    if "audio" in corrected.get("modalities", ()):
        raise EngineRefused("This model answers with text only.", param="modalities")
    for limit in LIMITS:
        if limit in corrected:
            corrected[limit] = min(corrected[limit], MAX_TOKENS)
    stop = corrected.get("stop", ())
    corrected["stop"] = [text for text in ([stop] if isinstance(stop, str) else stop) if text]
    corrected["messages"] = [_message(message) for message in corrected["messages"]]
    _choose_tools(corrected)
    if corrected.get("logprobs") and not corrected.get("top_logprobs"):
        corrected["top_logprobs"] = 1  # 0 turns logprobs off, none means 20
    # Progress makes a long prompt interruptible: the callback is called after every step of it.
    return corrected | {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}


def _without_nulls(value: Any) -> Any:
    """Null is taken for absent, however deep it lies."""
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        return {key: _without_nulls(each) for key, each in fields.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in cast(list[Any], value) if each is not None]
    return value


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp knows no refusals, wants words or calls of every message, and reads a call without arguments as
    broken JSON.
    """
    corrected = dict(message)
    parts = message.get("content")
    if isinstance(parts, list):
        corrected["content"] = [_part(part) for part in cast(list[dict[str, Any]], parts)]
    elif parts is None and message.get("refusal"):
        corrected["content"] = message["refusal"]
    if message.get("tool_calls"):
        corrected["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    elif "content" not in corrected:
        corrected["content"] = ""
    return corrected


def _part(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": part["refusal"]} if part.get("type") == "refusal" else part


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function: dict[str, Any] = call.get("function") or {}
    if function.get("arguments"):
        return call
    return {**call, "function": {**function, "arguments": "{}"}}


def _schemas(request: Request) -> Request:
    """The fields that hold schemas, in which null may be a value."""
    return {
        field: _shallow(translate, request[field], field) for field, translate in SCHEMAS.items() if field in request
    }


def _shallow(translate: Callable[[Any], Any], value: Any, field: str) -> Any:
    try:
        return translate(value)
    except RecursionError:
        raise EngineRefused(f"'{field}' is nested too deeply.", param=field) from None


def _tools(tools: Any) -> Any:
    if not isinstance(tools, list):
        return tools
    return [_tool(tool) for tool in cast(list[Any], tools) if tool is not None]


def _tool(tool: Any) -> Any:
    if not isinstance(tool, dict):
        return tool
    fields = cast(dict[str, Any], tool)
    function: Any = fields.get("function")
    if not isinstance(function, dict):
        return _without_nulls(fields)
    schema = cast(dict[str, Any], function).get("parameters")
    rest = _without_nulls({**fields, "function": {**function, "parameters": None}})
    if schema is not None:
        allowed = for_grammar(schema)
        if allowed is None:
            name = rest["function"].get("name")
            raise EngineRefused(f"The parameters of the tool {name!r} allow no value.", param="tools")
        rest["function"]["parameters"] = allowed
    return rest


def _response_format(form: Any) -> Any:
    """The schema is in `json_schema`, or beside a type of `json_object`."""
    if not isinstance(form, dict):
        return form
    fields = cast(dict[str, Any], form)
    named: Any = fields.get("json_schema")
    rest = _without_nulls({**fields, "schema": None, "json_schema": None})
    if isinstance(named, dict):
        rest["json_schema"] = _with_schema(cast(dict[str, Any], named))
    elif named is not None:
        rest["json_schema"] = named
    if fields.get("schema") is not None:
        rest["schema"] = _response_schema(fields["schema"])
    return rest


def _with_schema(named: dict[str, Any]) -> dict[str, Any]:
    rest = _without_nulls({**named, "schema": None})
    return rest if named.get("schema") is None else {**rest, "schema": _response_schema(named["schema"])}


def _response_schema(schema: Any) -> Any:
    if not isinstance(schema, dict | bool):
        raise EngineRefused("The schema of response_format must be an object or a boolean.", param="response_format")
    allowed = for_grammar(schema)
    if allowed is None:
        raise EngineRefused("The schema of response_format allows no value.", param="response_format")
    return allowed


SCHEMAS: dict[str, Callable[[Any], Any]] = {"tools": _tools, "response_format": _response_format}


def _choose_tools(request: Request) -> None:
    """llama.cpp reads a named tool as "any tool", and lets `response_format` win over a forced one."""
    choice = request.get("tool_choice")
    if isinstance(choice, dict):
        name = tool_name(cast(dict[str, Any], choice))
        request["tools"] = only(request.get("tools") or [], [name])
        request["tool_choice"] = "required"
        if not request["tools"]:
            raise EngineRefused(f"'tools' has no tool named {name!r}.", param="tool_choice")
    if request.get("tool_choice") == "required":
        request.pop("response_format", None)


class AnswerCorrection:
    """Makes llama.cpp's chunks, one stream per choice, into one OpenAI stream."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._bare_logprobs = bool(request.get("logprobs")) and not request.get("top_logprobs")
        self._wants_progress = bool(request.get("return_progress"))
        self._head: Chunk = {}
        self._tail: Chunk = {}

    def correct(self, index: int, chunk: Chunk) -> Chunk | None:
        """The chunk to pass on, or None. The usage of each choice is kept back for `usage_chunk`."""
        if "error" in chunk:
            raise error_from(chunk["error"], self._request)
        if not chunk["choices"]:
            self._add_usage(chunk)
            return None
        if "prompt_progress" in chunk and not self._wants_progress:
            return None
        self._head = self._head or {"id": chunk["id"], "created": chunk["created"]}
        self._correct_choice(index, chunk["choices"][0])
        return chunk | self._head

    @property
    def counted(self) -> bool:
        """Whether llama.cpp has told what a choice cost."""
        return bool(self._tail)

    def usage_chunk(self) -> Chunk:
        """The last chunk: what all choices cost together."""
        return self._tail | self._head

    def _correct_choice(self, index: int, choice: dict[str, Any]) -> None:
        choice["index"] = index
        delta = choice["delta"]
        if delta.get("content", "") is None:
            delta["content"] = ""
        if self._bare_logprobs and choice.get("logprobs"):
            for token in choice["logprobs"]["content"]:
                token["top_logprobs"] = []

    def _add_usage(self, chunk: Chunk) -> None:
        if self._tail:
            completion = self._tail["usage"]["completion_tokens"] + chunk["usage"]["completion_tokens"]
            chunk["usage"]["completion_tokens"] = completion
            chunk["usage"]["total_tokens"] = chunk["usage"]["prompt_tokens"] + completion
        self._tail = chunk


def error_from(error: Mapping[str, Any], request: Request) -> IgniteError:
    """llama.cpp's error object: `code` is the HTTP status."""
    message, status = str(error.get("message", error)), error.get("code")
    if error.get("type") == "exceed_context_size_error":
        return EngineRefused(message, code="context_length_exceeded", param="messages")
    if (isinstance(status, int) and 400 <= status < 500) or READING.match(message):
        return refusal(message, request)
    return EngineError(message)


READING = re.compile(r"Failed to parse |\w+ input is not supported")
"""What llama-server answers 500 to, though it is the request that is wrong."""

ITS_FIELD = re.compile(r"Field '(\w+)'")

GENERATION = re.compile(
    r"(?s)Unable to generate parser for this template. Automatic parser generation failed: (?:.*\n)?"
)
ECHO = re.compile(r"(?s); tools = .*")
"""What is of no use to a client: how the template was read, and the client's own words."""


def refusal(message: str, request: Request) -> EngineRefused:
    field = _field_in(message, request)
    if "failed to parse grammar" in message and field in SCHEMAS:
        message = f"The schema in '{field}' makes no grammar: it repeats too much, or refers to itself without end."
    return EngineRefused(ECHO.sub("", GENERATION.sub("", message)), param=field)


_FIELDS = ("tools", "tool_choice", "response_format", "top_logprobs", "grammar", "n")


def _field_in(message: str, request: Request) -> str | None:
    """The field that a message speaks of. Schemas become grammars, so that is what llama.cpp calls them."""
    if (named := ITS_FIELD.match(message)) is not None:
        return named[1]
    words = set(re.findall(r"\w+", message))
    if "schema" in words or GENERATION.match(message) or ("grammar" in words and "grammar" not in request):
        return "response_format" if request.get("response_format") else "tools"
    if message.startswith("Failed to parse tools"):
        return "tools"
    if {"input", "content", "messages", "call"} & words:
        return "messages"
    return next((field for field in _FIELDS if field in words), None)


def input_modalities(model: Mapping[str, Any]) -> tuple[str, ...]:
    """What a model takes, as llama.cpp's list of models tells it, and those of others that list so; empty: not told."""
    architecture: Any = model.get("architecture")
    if not isinstance(architecture, dict):
        return ()
    told: Any = cast(dict[str, Any], architecture).get("input_modalities") or ()
    return tuple(str(modality) for modality in told)
