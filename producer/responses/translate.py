"""From a checked request of the Responses API to a chat request, with what the response repeats of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from producer.responses.conversation import Conversation, Resource, message_resource, resource_of
from producer.responses.items import ItemReference
from producer.responses.kept import Kept
from producer.responses.request import (
    ELSEWHERE,
    NOT_HERE,
    AllowedTools,
    CustomTool,
    FunctionTool,
    GrammarInput,
    JsonSchemaFormat,
    NamedTool,
    ResponsesRequest,
    Tool,
)
from producer.responses.truncation import turns_to_drop
from shared.errors import IgniteError, InvalidRequest, RecordedError
from shared.schema import ChatCompletionRequest, check_request
from shared.schema.request import RESPONSE_FIELD

SAME = (
    *("metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
    *("service_tier", "temperature", "top_p", "user", "deadline_seconds", "webhook_url"),
)
"""Fields that chat has under the same name, with the same meaning."""

RENAMED: Mapping[str, str] = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}
"""Chat's fields by which errors name what the client has sent under another name."""

FLAT = ((".image_url.url", ".image_url"), (".file.", "."))
"""Members of chat's parts, and where parts of input items have them."""

MESSAGE = re.compile(r"messages\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a request builds on. `messages` and `output`: those of the previous response. `items`: the items that its
    references name, by their ids.
    """

    messages: Sequence[dict[str, Any]] = ()
    output: Sequence[Resource] = ()
    items: Mapping[str, Resource] = field(default_factory=dict[str, Resource])


@dataclass(frozen=True, slots=True)
class Translated:
    """`body`: the job's request, with `kept` in it. `prompt_bytes`: of the chat request alone. `sources`: the path of
    what each chat message comes from, in the client's request.
    """

    body: bytes
    request: ChatCompletionRequest
    kept: Kept
    prompt_bytes: int
    sources: Sequence[str]

    def renamed(self, error: IgniteError) -> IgniteError:
        return renamed(error, self.sources)


def translated(
    request: ResponsesRequest, earlier: Earlier, *, background: bool, limit: int, context: int | None = None
) -> Translated:
    """`background`: of the body or by a header. `limit`: bytes that the chat request may have. `context`: the model's,
    in tokens, where it is known and `truncation` is `auto`. Raises InvalidRequest, which names the client's fields.
    """
    items = resources_of(request, earlier.items)
    conversation = Conversation([*earlier.messages], ["previous_response_id"] * len(earlier.messages))
    if request.instructions is not None:
        conversation.messages.insert(0, {"role": "system", "content": request.instructions})
        conversation.sources.insert(0, "instructions")
    inherited = [(item, "previous_response_id") for item in earlier.output]
    conversation.extend([*inherited, *((item, f"input[{index}]") for index, item in enumerate(items))])
    if request.truncation == "auto" and context is not None:
        kept_first = 0 if request.instructions is None else 1
        dropped = turns_to_drop(
            conversation.messages, kept=kept_first, context=context, answer=request.max_output_tokens
        )
        del conversation.messages[kept_first : kept_first + dropped]
        del conversation.sources[kept_first : kept_first + dropped]
    chat = chat_request(request, conversation.messages)
    try:
        checked = check_request(chat, stream=True)
    except InvalidRequest as error:
        raise renamed(error, conversation.sources) from None
    kept = Kept(
        echo_of(request, background=background),
        items,
        logprobs=request.with_logprobs,
        instructed=request.instructions is not None,
    )
    prompt = orjson.dumps(chat)
    if len(prompt) > limit:
        raise too_long(len(prompt), limit)
    body = b"%b,%b:%b}" % (prompt[:-1], orjson.dumps(RESPONSE_FIELD), orjson.dumps(kept.to_dict()))
    return Translated(body, checked, kept, prompt_bytes=len(prompt), sources=conversation.sources)


def too_long(size: int, limit: int) -> InvalidRequest:
    return InvalidRequest(
        f"The conversation has {size:,} bytes with its earlier responses, and {limit:,} are the limit: "
        "start a new one with a summary of it.",
        param="previous_response_id",
        code="context_length_exceeded",
    )


def resources_of(request: ResponsesRequest, referred: Mapping[str, Resource]) -> list[Resource]:
    if request.input is None or isinstance(request.input, str):
        return [message_resource("user", request.input)] if request.input else []
    return [
        referred[item.id] if isinstance(item, ItemReference) else resource_of(item, f"input[{index}]")
        for index, item in enumerate(request.input)
    ]


def chat_request(request: ResponsesRequest, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the chat request. The log always has the usage, which the last event needs."""
    extra = {
        name: value
        for name, value in (request.model_extra or {}).items()
        if name not in ELSEWHERE and name not in NOT_HERE and name != RESPONSE_FIELD
    }
    same = {name: value for name in SAME if (value := getattr(request, name)) is not None}
    chat = {**extra, "model": request.model, "messages": messages, **same, "store": request.stored}
    if request.max_output_tokens is not None:
        chat["max_completion_tokens"] = request.max_output_tokens
    if request.prompt_cache_options is not None:
        chat["prompt_cache_options"] = request.prompt_cache_options.model_dump(exclude_none=True)
    if request.reasoning is not None and request.reasoning.effort is not None:
        chat["reasoning_effort"] = request.reasoning.effort
    if request.with_logprobs:
        chat |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    return chat | _text(request) | _tools(request) | {"stream": True, "stream_options": {"include_usage": True}}


def _text(request: ResponsesRequest) -> dict[str, Any]:
    text, found = request.text, dict[str, Any]()
    if text is None:
        return found
    if text.verbosity is not None:
        found["verbosity"] = text.verbosity
    if isinstance(text.format, JsonSchemaFormat):
        found["response_format"] = {"type": "json_schema", "json_schema": schema_of(text.format)}
    elif text.format is not None and text.format.type == "json_object":
        found["response_format"] = {"type": "json_object"}
    return found


def schema_of(format: JsonSchemaFormat) -> dict[str, Any]:
    return format.model_dump(by_alias=True, exclude_none=True, include={"name", "description", "schema_", "strict"})


def _tools(request: ResponsesRequest) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if request.tools:
        found["tools"] = [chat_tool(tool) for tool in request.tools]
    match request.tool_choice:
        case None:
            pass
        case AllowedTools(mode=mode, tools=tools):
            allowed = {"mode": mode, "tools": [chat_choice(tool) for tool in tools]}
            found["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}
        case NamedTool() as tool:
            found["tool_choice"] = chat_choice(tool)
        case str() as choice:
            found["tool_choice"] = choice
    return found


def chat_tool(tool: Tool) -> dict[str, Any]:
    if isinstance(tool, FunctionTool):
        return {"type": "function", "function": _given(tool, "name", "description", "parameters", "strict")}
    custom = _given(tool, "name", "description")
    if isinstance(tool.format, GrammarInput):
        grammar = {"definition": tool.format.definition, "syntax": tool.format.syntax}
        custom["format"] = {"type": "grammar", "grammar": grammar}
    elif tool.format is not None:
        custom["format"] = {"type": "text"}
    return {"type": "custom", "custom": custom}


def chat_choice(tool: NamedTool) -> dict[str, Any]:
    return {"type": tool.type, tool.type: {"name": tool.name}}


def _given(tool: FunctionTool | CustomTool, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(tool, name)) is not None}


# ── what the response repeats ──


def echo_of(request: ResponsesRequest, *, background: bool) -> dict[str, Any]:
    """Returns the response's fields that repeat the request, with OpenAI's defaults for those it does not have."""
    extra = request.model_extra or {}
    echo = {
        "background": background,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": _reasoning_echo(request),
        "safety_identifier": request.safety_identifier,
        "store": request.stored,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": _text_echo(request),
        "tool_choice": _choice_echo(request),
        "tools": [_tool_echo(tool) for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "presence_penalty": extra.get("presence_penalty") or 0.0,
        "frequency_penalty": extra.get("frequency_penalty") or 0.0,
        "truncation": request.truncation or "disabled",
        "user": request.user,
    }
    if request.prompt_cache_retention is not None:
        echo["prompt_cache_retention"] = request.prompt_cache_retention
    return echo


def _reasoning_echo(request: ResponsesRequest) -> dict[str, Any]:
    asked = request.reasoning
    summary = asked and (asked.summary or asked.generate_summary)
    return {"effort": asked and asked.effort, "summary": summary}


def _text_echo(request: ResponsesRequest) -> dict[str, Any]:
    text = request.text
    format: dict[str, Any] = {"type": "text"}
    if text is not None and isinstance(text.format, JsonSchemaFormat):
        format = {"type": "json_schema", "description": None, "strict": False, **schema_of(text.format)}
    elif text is not None and text.format is not None:
        format = {"type": text.format.type}
    return {"format": format} | ({"verbosity": text.verbosity} if text and text.verbosity else {})


def _choice_echo(request: ResponsesRequest) -> Any:
    match request.tool_choice:
        case AllowedTools(mode=mode, tools=tools):
            named = [{"type": tool.type, "name": tool.name} for tool in tools]
            return {"type": "allowed_tools", "mode": mode, "tools": named}
        case NamedTool(type=kind, name=name):
            return {"type": kind, "name": name}
        case choice:
            return choice or "auto"


def _tool_echo(tool: Tool) -> dict[str, Any]:
    if isinstance(tool, FunctionTool):
        names = ("name", "description", "parameters", "strict")
        return {"type": "function"} | {name: getattr(tool, name) for name in names}
    format = {"type": "text"} if tool.format is None else tool.format.model_dump(exclude_none=True)
    return {"type": "custom", "format": format} | _given(tool, "name", "description")


# ── errors ──


def renamed(error: IgniteError, sources: Sequence[str] = ()) -> IgniteError:
    """Returns the error with the client's names for chat's fields."""
    if error.param is None:
        return error
    rename = renaming(sources)
    param = rename(error.param)
    if param != error.param:
        error.message = error.message.replace(f"'{error.param}'", f"'{param}'")
        error.param = param
    return error


def renaming(sources: Sequence[str]) -> Callable[[str], str]:
    def rename(param: str) -> str:
        found = MESSAGE.match(param)
        if found is not None:
            index = int(found[1])
            source = sources[index] if index < len(sources) else "input"
            rest = param[found.end() :]
            for deeper, plain in FLAT:
                rest = rest.replace(deeper, plain)
            return source + rest if source.startswith("input[") else source
        head, dot, rest = param.partition(".")
        return RENAMED.get(head, head) + dot + rest.removeprefix("json_schema.")

    return rename


def recorded(error: Mapping[str, Any]) -> RecordedError:
    """Returns a job's error with the client's names."""
    found = RecordedError(error)
    renamed(found)
    return found
