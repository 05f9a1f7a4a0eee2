"""The input items of a request to the Responses API: what each type may be made of, checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from shared.schema.base import LIST, TEXT, Strict, text_or_list
from shared.schema.messages import MAX_PARTS, CacheBreakpoint

Status = Literal["in_progress", "completed", "incomplete"]

# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class InputText(Strict):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class InputImage(Strict):
    type: Literal["input_image"]
    image_url: str | None = None
    file_id: str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class InputFile(Strict):
    type: Literal["input_file"]
    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class InputAudioData(Strict):
    data: str
    format: Literal["wav", "mp3"]


class InputAudio(Strict):
    type: Literal["input_audio"]
    input_audio: InputAudioData


class OutputText(Strict):
    type: Literal["output_text"]
    text: str


class Refusal(Strict):
    type: Literal["refusal"]
    refusal: str


class ReasoningText(Strict):
    type: Literal["reasoning_text"]
    text: str


class SummaryText(Strict):
    type: Literal["summary_text"]
    text: str


Part = Annotated[InputText | InputImage | InputFile | InputAudio | OutputText | Refusal, Discriminator("type")]
OutputPart = Annotated[InputText | InputImage | InputFile, Discriminator("type")]

TEXT_OR_PARTS = Discriminator(
    text_or_list,
    custom_error_type="content_type",
    custom_error_message="expected a string or a list of content parts",
)
Content = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True), Tag(LIST)],
    TEXT_OR_PARTS,
]
ToolOutput = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[OutputPart], Field(max_length=MAX_PARTS, fail_fast=True), Tag(LIST)],
    TEXT_OR_PARTS,
]

# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Message(Strict):
    """A message in the easy form, or an item. `type` may be left out."""

    type: Literal["message"] = "message"
    role: Literal["user", "system", "developer", "assistant"]
    content: Content
    id: str | None = None
    status: Status | None = None


class FunctionCall(Strict):
    type: Literal["function_call"]
    call_id: str = Field(min_length=1)
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class FunctionCallOutput(Strict):
    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1)
    output: ToolOutput
    id: str | None = None
    status: Status | None = None


class CustomToolCall(Strict):
    type: Literal["custom_tool_call"]
    call_id: str = Field(min_length=1)
    name: str
    input: str
    id: str | None = None


class CustomToolCallOutput(Strict):
    type: Literal["custom_tool_call_output"]
    call_id: str = Field(min_length=1)
    output: ToolOutput
    id: str | None = None


class Reasoning(Strict):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[SummaryText] = Field(default=[], max_length=MAX_PARTS)
    content: list[ReasoningText] | None = Field(None, max_length=MAX_PARTS)
    encrypted_content: str | None = None
    status: Status | None = None


class ItemReference(Strict):
    type: Literal["item_reference"] = "item_reference"
    id: str


KINDS = frozenset(
    {
        *("message", "reasoning", "item_reference", "function_call", "function_call_output"),
        *("custom_tool_call", "custom_tool_call_output"),
    }
)


def kind_of(item: object) -> str | None:
    """Returns the item's type: OpenAI lets messages and references go without."""
    if not isinstance(item, dict):
        return None
    fields = cast(dict[str, Any], item)
    if (kind := fields.get("type")) is not None:
        return kind if isinstance(kind, str) else None
    return "item_reference" if "id" in fields and "role" not in fields else "message"


Item = Annotated[
    Annotated[Message, Tag("message")]
    | Annotated[Reasoning, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[CustomToolCall, Tag("custom_tool_call")]
    | Annotated[CustomToolCallOutput, Tag("custom_tool_call_output")],
    Discriminator(kind_of, custom_error_type="item_type", custom_error_message="expected an input item"),
]
