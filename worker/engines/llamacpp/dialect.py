"""Translates requests and answers where llama.cpp's server differs from OpenAI's API. No I/O."""

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
"""llama.cpp's integers have 32 bits. It silently truncates greater ones."""

RANDOM_SEED = 2**32 - 1
"""The value that llama.cpp treats as no seed."""

CHOICES = {"n", "n_cmpl"}
"""Fields with the number of choices. They are removed, because each choice is requested alone."""


def request_per_choice(request: Request) -> list[Request]:
    """Returns one request for each of `n` choices.

    For `n` choices in one request llama.cpp needs `n` slots that are free at the same time, and it counts the tokens of
    one choice only. Each choice gets its own seed: with one seed all choices would be equal.
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
        corrected["top_logprobs"] = 1  # llama.cpp: 0 switches logprobs off, and a missing field means 20.
    # With progress reports a long prompt can be interrupted: llama.cpp reports after every step.
    return corrected | {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}


def _without_nulls(value: Any) -> Any:
    """Removes nulls at all levels: they mean the same as absent fields."""
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        return {key: _without_nulls(each) for key, each in fields.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in cast(list[Any], value) if each is not None]
    return value


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Translates a message: llama.cpp does not know refusals, requires content or tool calls in every message, and
    reads a call without arguments as invalid JSON.
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
    """Translates the fields that contain schemas. Nulls stay, because null may be a value in a schema."""
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
    """Translates the schema, which is in `json_schema`, or in `schema` with the type `json_object`."""
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
    """Translates `tool_choice`: llama.cpp reads a named tool as "any tool", and ignores a forced tool if there is a
    `response_format`.
    """
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
    """Merges llama.cpp's chunks, one stream per choice, into one OpenAI stream."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._bare_logprobs = bool(request.get("logprobs")) and not request.get("top_logprobs")
        self._wants_progress = bool(request.get("return_progress"))
        self._head: Chunk = {}
        self._tail: Chunk = {}

    def correct(self, index: int, chunk: Chunk) -> Chunk | None:
        """Returns the chunk to pass on, or None. Collects the usage of each choice for `usage_chunk`."""
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
        """Whether llama.cpp has reported the usage of a choice."""
        return bool(self._tail)

    def usage_chunk(self) -> Chunk:
        """Returns the last chunk, with the usage of all choices together."""
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
    """Translates llama.cpp's error object, whose `code` is the HTTP status."""
    message, status = str(error.get("message", error)), error.get("code")
    if error.get("type") == "exceed_context_size_error":
        return EngineRefused(message, code="context_length_exceeded", param="messages")
    if (isinstance(status, int) and 400 <= status < 500) or READING.match(message):
        return refusal(message, request)
    return EngineError(message)


READING = re.compile(r"Failed to parse |\w+ input is not supported")
"""Messages that llama-server sends with status 500 although the request is invalid."""

ITS_FIELD = re.compile(r"Field '(\w+)'")

GENERATION = re.compile(
    r"(?s)Unable to generate parser for this template. Automatic parser generation failed: (?:.*\n)?"
)
ECHO = re.compile(r"(?s); tools = .*")
"""Parts of error messages that do not help a client: how the template was parsed, and a copy of the client's tools."""


def refusal(message: str, request: Request) -> EngineRefused:
    field = _field_in(message, request)
    if "failed to parse grammar" in message and field in SCHEMAS:
        message = f"The schema in '{field}' cannot be used: it repeats too much, or refers to itself without end."
    return EngineRefused(ECHO.sub("", GENERATION.sub("", message)), param=field)


_FIELDS = ("tools", "tool_choice", "response_format", "top_logprobs", "grammar", "n")


def _field_in(message: str, request: Request) -> str | None:
    """Returns the field that a message is about. llama.cpp calls schemas grammars, because it converts them."""
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
    """Returns a model's input modalities from llama.cpp's list of models, or from another server's list with the same
    fields; empty if the list does not contain them.
    """
    architecture: Any = model.get("architecture")
    if not isinstance(architecture, dict):
        return ()
    listed: Any = cast(dict[str, Any], architecture).get("input_modalities") or ()
    return tuple(str(modality) for modality in listed)
