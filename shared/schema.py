"""The client's request: every field of OpenAI's chat completions API, checked, and ours beside them.

A request is checked once, at the door, and then travels as the client's own bytes. Fields that nobody here knows are
kept: they belong to the engine. Source of names and ranges: OpenAI's published API, as the `openai` package types it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import orjson
from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, ValidationError, model_validator

from shared.errors import InvalidRequest

MAX_NESTING = 100
"""Levels of JSON. Well under what the encoders of engines take (orjson: 254), far over what a request needs."""

INT64 = 2**63

QUOTED = 100
"""Characters."""

MAX_DEADLINE = 30 * 86400.0
"""Seconds a request may give a job."""


class Strict(BaseModel):
    """No coercion: OpenAI answers 400 to a number in quotes."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class RefusalPart(Strict):
    type: Literal["refusal"]
    refusal: str


class ImageUrl(Strict):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class InputAudio(Strict):
    data: str
    format: str


class AudioPart(Strict):
    type: Literal["input_audio"]
    input_audio: InputAudio


class FilePart(Strict):
    type: Literal["file"]
    file: dict[str, JsonValue]


def text_or_list(value: object) -> str | None:
    """The branch of a field that is either a string or a list."""
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else None


Part = Annotated[TextPart | ImagePart | AudioPart | FilePart | RefusalPart, Discriminator("type")]
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Part], Field(min_length=1), Tag("list")],
    Discriminator(
        text_or_list,
        custom_error_type="content_type",
        custom_error_message="expected a string or a list of content parts",
    ),
]
Stop = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[str], Field(max_length=4), Tag("list")],
    Discriminator(
        text_or_list,
        custom_error_type="stop_type",
        custom_error_message="expected a string or a list of up to 4 strings",
    ),
]


class FunctionCall(Strict):
    name: str
    arguments: str


class ToolCall(Strict):
    id: str
    type: str
    function: FunctionCall | None = None


class DeveloperMessage(Strict):
    role: Literal["developer"]
    content: Content


class SystemMessage(Strict):
    role: Literal["system"]
    content: Content


class UserMessage(Strict):
    role: Literal["user"]
    content: Content


class AssistantMessage(Strict):
    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1)] | None = None
    function_call: FunctionCall | None = None


class ToolMessage(Strict):
    role: Literal["tool"]
    content: Content
    tool_call_id: str


class FunctionMessage(Strict):
    role: Literal["function"]
    content: str | None
    name: str


ChatMessage = Annotated[
    DeveloperMessage | SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Discriminator("role"),
]


class FunctionDefinition(Strict):
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class FunctionTool(Strict):
    type: Literal["function"]
    function: FunctionDefinition


class CustomTool(Strict):
    type: Literal["custom"]
    custom: dict[str, JsonValue]


Tool = Annotated[FunctionTool | CustomTool, Discriminator("type")]


RESPONSE_FORMATS = ("text", "json_object", "json_schema", "structural_tag")
ResponseFormat = Annotated[
    dict[str, JsonValue],
    Field(json_schema_extra={"properties": {"type": {"enum": [*RESPONSE_FORMATS]}}, "required": ["type"]}),
]


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatCompletionRequest(Strict):
    """The body of POST /v1/chat/completions."""

    model: str = Field(min_length=1, max_length=200)
    messages: list[ChatMessage] = Field(min_length=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = Field(None, ge=1, lt=INT64)
    max_tokens: int | None = Field(None, ge=1, lt=INT64)
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    modalities: list[Literal["text", "audio"]] | None = None
    n: int | None = Field(None, ge=1, le=128)
    parallel_tool_calls: bool | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    reasoning_effort: str | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = None
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    stop: Stop | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    tool_choice: str | dict[str, JsonValue] | None = None
    tools: list[Tool] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    top_p: float | None = Field(None, ge=0, le=1)
    user: str | None = None
    verbosity: str | None = None
    # ours
    background: bool | None = Field(None, description="Answer 202 with a job instead of waiting for the completion.")
    deadline_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_DEADLINE,
        description="The job's deadline, in seconds from now; it covers the wait in the queue.",
    )

    @model_validator(mode="after")
    def fields_agree(self) -> ChatCompletionRequest:
        """The rules that span fields, each naming the field to change."""
        for param, message in self._disagreements():
            raise InvalidRequest(message, param=param)
        return self

    def _disagreements(self) -> Iterable[tuple[str, str]]:
        if self.top_logprobs is not None and not self.logprobs:
            yield "top_logprobs", "'top_logprobs' is only allowed when 'logprobs' is true."
        if (self.model_extra or {}).get("webhook_url") is not None:
            yield "webhook_url", "webhooks are not supported yet: poll the job, or follow its events."
        yield from self._tool_choice_disagreements()
        yield from self._response_format_disagreements()

    def _tool_choice_disagreements(self) -> Iterable[tuple[str, str]]:
        choice = self.tool_choice
        if isinstance(choice, str):
            if choice not in ("none", "auto", "required"):
                expected = "'none', 'auto', 'required', or an object that names a tool"
                yield "tool_choice", invalid("tool_choice", f"expected {expected}")
            elif choice == "required" and not self.tools:
                yield "tool_choice", "'tool_choice' is only allowed when 'tools' are specified."
        elif choice is not None:
            yield from self._named_tool_disagreements(choice)

    def _named_tool_disagreements(self, choice: Mapping[str, JsonValue]) -> Iterable[tuple[str, str]]:
        if choice.get("type") != "function":
            return
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            yield "tool_choice.function.name", "Missing required parameter: 'tool_choice.function.name'."
        elif name not in self.function_names:
            yield "tool_choice", f"tool_choice names the function {short(name)!r}, which is not among 'tools'."

    def _response_format_disagreements(self) -> Iterable[tuple[str, str]]:
        if self.response_format is None:
            return
        kind = self.response_format.get("type")
        if kind not in RESPONSE_FORMATS:
            expected = "'text', 'json_object' or 'json_schema'"
            yield "response_format.type", invalid("response_format.type", f"expected {expected}")
        if kind == "json_schema" and not isinstance(self.response_format.get("json_schema"), dict):
            yield "response_format.json_schema", "Missing required parameter: 'response_format.json_schema'."

    @property
    def function_names(self) -> frozenset[str]:
        return frozenset(tool.function.name for tool in self.tools or () if isinstance(tool, FunctionTool))

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


OURS_TO_SET = frozenset({"priority", "request_id", "cache_salt", "session_id", "id_slot"})
"""Engine fields with which one tenant could touch another: never the client's to set."""

NOT_FOR_ENGINES = OURS_TO_SET | {
    "background",
    "deadline_seconds",
    "metadata",
    "model",
    "service_tier",
    "store",
    "stream",
    "stream_options",
}


def parse_json(body: bytes) -> Any:
    """`body` as JSON. Raises InvalidRequest (`invalid_json`); NaN, lone surrogates and bottomless nesting are not
    JSON.
    """
    if not body:
        raise InvalidRequest("The request body is empty; expected a JSON object.", code="invalid_json")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.", code="invalid_json") from None
    if body.count(b"[") + body.count(b"{") > MAX_NESTING and nesting(value) > MAX_NESTING:
        raise InvalidRequest(f"The request body nests deeper than {MAX_NESTING} levels.", code="invalid_json")
    return value


def nesting(value: Any) -> int:
    """Levels of lists and objects in a JSON value."""
    depth, level = 0, containers([value])
    while level:
        depth += 1
        level = [inner for container in level for inner in containers(container)]
    return depth


def containers(values: Iterable[Any]) -> list[Iterable[Any]]:
    """The lists among `values`, and the values of the objects among them."""
    objects = [cast(dict[str, Any], value).values() for value in values if isinstance(value, dict)]
    return [*objects, *(cast(list[Any], value) for value in values if isinstance(value, list))]


def parse_request(body: bytes, *, stream: bool | None = None) -> ChatCompletionRequest:
    """The checked request. `stream` is what the path says, where it says anything.

    Raises InvalidRequest with the path of the first bad field in `param`.
    """
    value = parse_json(body)
    if not isinstance(value, dict):
        raise InvalidRequest("The request body is not a JSON object.", code="invalid_json")
    return check_request(cast(dict[str, Any], value), stream=stream)


def check_request(value: dict[str, Any], *, stream: bool | None = None) -> ChatCompletionRequest:
    """As `parse_request`, for a value that is parsed already."""
    try:
        request = ChatCompletionRequest.model_validate(value)
    except ValidationError as error:
        raise first_error(error, value) from None
    streams = request.stream if stream is None else stream
    if request.stream_options is not None and not streams:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    return request


def first_error(error: ValidationError, value: Any) -> InvalidRequest:
    """pydantic's first complaint, as one of ours."""
    problem = error.errors(include_url=False)[0]
    param, context = field_path(problem["loc"], value), problem.get("ctx", {})
    if "discriminator" in context:
        param = f"{param}.{context['discriminator'].strip(chr(39))}"
    match problem["type"]:
        case "missing" | "union_tag_not_found":
            return InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
        case "union_tag_invalid":
            reason = f"{short(context['tag'])!r} is not one of {context['expected_tags']}"
        case _:
            reason = problem["msg"][0].lower() + problem["msg"][1:]
    return InvalidRequest(invalid(param, reason), param=param)


def invalid(param: str, reason: str) -> str:
    return f"Invalid value for '{param}': {reason}."


def short(text: str) -> str:
    """What a client sent, for an answer that quotes it: megabytes do not come back."""
    return text if len(text) <= QUOTED else text[: QUOTED - 1] + "…"


def field_path(location: Sequence[str | int], value: Any) -> str:
    """OpenAI's way to name a field: `messages[0].content`. Skips the union tags that pydantic puts into its path."""
    path = ""
    for position, step in enumerate(location):
        last = position == len(location) - 1
        if isinstance(step, int) and isinstance(value, list):
            path += f"[{step}]"
            value = cast(list[Any], value)[step]
        elif isinstance(value, dict) and (step in value or last):
            path += f".{short(str(step))}" if path else str(step)
            value = cast(dict[Any, Any], value).get(step)
    return path
