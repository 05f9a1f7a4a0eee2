"""The body of POST /v1/responses. Source of names and ranges: OpenAI's published API, as the `openai` package types it;
null is taken for absent. Fields that nobody here knows are passed to the engine, as in chat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, ValidationError, model_validator

from producer.responses.items import KINDS, Item, kind_of
from shared.errors import InvalidRequest
from shared.schema.base import LIST, NAME, OBJECT, TEXT, Strict, short, text_or_list, text_or_object
from shared.schema.parsing import first_error
from shared.schema.request import INT64, DeadlineSeconds, Metadata, ModelName, PromptCacheOptions, ServiceTier
from shared.schema.tools import MAX_TOOLS, Grammar

MAX_ITEMS = 4096

ELSEWHERE: Mapping[str, str] = {
    "messages": "'input'",
    "max_tokens": "'max_output_tokens'",
    "max_completion_tokens": "'max_output_tokens'",
    "reasoning_effort": "'reasoning.effort'",
    "response_format": "'text.format'",
    "verbosity": "'text.verbosity'",
    "logprobs": "'top_logprobs' and 'include'",
    "functions": "'tools'",
    "function_call": "'tool_choice'",
}
"""Fields of Chat Completions, and where the Responses API has them."""

NOT_HERE: Mapping[str, str] = {
    "access_programs": "there are no access programs",
    "audio": "responses are text",
    "background_options": "there are no completion windows but those of batches",
    "context_management": "nothing is compacted",
    "conversation": "there are no conversations; use 'previous_response_id'",
    "image": "images are not compressed",
    "modalities": "responses are text",
    "n": "a response is one answer",
    "prediction": "nothing is predicted",
    "prompt": "there are no prompt templates; send 'instructions' and 'input'",
    "web_search_options": "the web is not searched",
}
"""Fields of OpenAI's that nothing here can do, each with the reason."""


class FunctionTool(Strict):
    type: Literal["function"]
    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class PlainInput(Strict):
    type: Literal["text"]


class GrammarInput(Grammar):
    type: Literal["grammar"]


class CustomTool(Strict):
    type: Literal["custom"]
    name: str = Field(min_length=1)
    description: str | None = None
    format: Annotated[PlainInput | GrammarInput, Discriminator("type")] | None = None


Tool = Annotated[FunctionTool | CustomTool, Discriminator("type")]


class NamedTool(Strict):
    type: Literal["function", "custom"]
    name: str


class AllowedTools(Strict):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(max_length=MAX_TOOLS)


def choice_branch(value: object) -> str | None:
    if not isinstance(value, dict):
        return text_or_object(value)
    return "allowed_tools" if cast(dict[str, Any], value).get("type") == "allowed_tools" else OBJECT


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(TEXT)]
    | Annotated[AllowedTools, Tag("allowed_tools")]
    | Annotated[NamedTool, Tag(OBJECT)],
    Discriminator(
        choice_branch,
        custom_error_type="tool_choice_type",
        custom_error_message="expected 'none', 'auto', 'required', or an object that names a tool",
    ),
]


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    name: str = Field(pattern=NAME)
    # A plain `schema` would hide pydantic's own.
    schema_: dict[str, JsonValue] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextConfig(Strict):
    format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Discriminator("type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(Strict):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None


class StreamOptions(Strict):
    include_obfuscation: bool | None = None


Include = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
LOGPROBS = "message.output_text.logprobs"

Input = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[Item], Field(max_length=MAX_ITEMS, fail_fast=True), Tag(LIST)],
    Discriminator(
        text_or_list,
        custom_error_type="input_type",
        custom_error_message="expected a string or a list of input items",
    ),
]


class ResponsesRequest(Strict):
    """The body of POST /v1/responses."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    model: ModelName
    input: Input | None = None
    background: bool | None = None
    include: list[Include] | None = Field(None, max_length=32)
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, lt=INT64)
    max_tool_calls: int | None = Field(None, ge=1, lt=INT64)
    metadata: Metadata | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = Field(None, max_length=200)
    prompt_cache_key: str | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    reasoning: ReasoningConfig | None = None
    safety_identifier: str | None = Field(None, max_length=128)
    service_tier: ServiceTier | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    text: TextConfig | None = None
    tool_choice: ToolChoice | None = None
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS, fail_fast=True)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    top_p: float | None = Field(None, ge=0, le=1)
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None
    # ours
    deadline_seconds: DeadlineSeconds | None = None
    webhook_url: str | None = Field(None, description="URL that receives a signed event when a response ends.")

    @model_validator(mode="after")
    def fields_agree(self) -> ResponsesRequest:
        for param, message in self._faults():
            raise InvalidRequest(message, param=param)
        return self

    def _faults(self) -> Iterable[tuple[str, str]]:
        for name, value in (self.model_extra or {}).items():
            if value is None:
                continue
            if name in ELSEWHERE:
                yield name, f"Unsupported parameter: '{name}'. In the Responses API it is {ELSEWHERE[name]}."
            if name in NOT_HERE:
                yield name, f"Unsupported parameter: '{name}': {NOT_HERE[name]}."
        if not self.input and self.previous_response_id is None:
            yield "input", "Missing required parameter: 'input'."
        if self.background and self.store is False:
            yield "store", "'background' needs 'store': a response that is not stored cannot be fetched."
        if self.stream_options is not None and not self.stream:
            yield "stream_options", "'stream_options' is only allowed when 'stream' is true."

    @property
    def stored(self) -> bool:
        return self.store is not False

    @property
    def with_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    @property
    def items(self) -> list[Item]:
        return self.input if isinstance(self.input, list) else []


def check_responses_request(value: dict[str, Any]) -> ResponsesRequest:
    """Returns the checked request of a parsed body. Raises InvalidRequest, with the field in `param`."""
    refuse_hosted_tools(value)
    refuse_unknown_items(value)
    try:
        return ResponsesRequest.model_validate(value)
    except ValidationError as error:
        raise first_error(error, value) from None


def refuse_unknown_items(value: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for the first input item of a type that no engine here can read."""
    items = value.get("input")
    for index, item in enumerate(cast(list[Any], items) if isinstance(items, list) else ()):
        kind = kind_of(item)
        if kind is not None and kind not in KINDS:
            raise InvalidRequest(
                f"Items of the type {short(kind)!r} are not taken here; these are: {', '.join(sorted(KINDS))}.",
                param=f"input[{index}].type",
            )


TOOL_TYPES = ("function", "custom")


def refuse_hosted_tools(value: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for the first tool, or choice of one, that the server would have to run."""
    tools = value.get("tools")
    for index, tool in enumerate(cast(list[Any], tools) if isinstance(tools, list) else ()):
        kind = cast(dict[str, Any], tool).get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind not in TOOL_TYPES:
            raise InvalidRequest(
                f"Tools of the type {short(kind)!r} are not available here: the client runs all tools. "
                "Send tools of the types 'function' and 'custom'.",
                param=f"tools[{index}].type",
            )
    choice = value.get("tool_choice")
    kind = cast(dict[str, Any], choice).get("type") if isinstance(choice, dict) else None
    if isinstance(kind, str) and kind not in (*TOOL_TYPES, "allowed_tools"):
        raise InvalidRequest(
            f"Tools of the type {short(kind)!r} are not available here, so none can be chosen.",
            param="tool_choice.type",
        )
