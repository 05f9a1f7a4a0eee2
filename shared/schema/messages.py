"""The messages of a request: the fields of each role, and the rules between messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import Discriminator, Field, Tag

from shared.schema.base import LIST, TEXT, Strict, short, text_or_list

# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class CacheBreakpoint(Strict):
    mode: Literal["explicit"]
    ttl: Literal["30m", "12h"] | None = None


class TextPart(Strict):
    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class RefusalPart(Strict):
    type: Literal["refusal"]
    refusal: str


class ImageUrl(Strict):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class InputAudio(Strict):
    data: str
    format: Literal["wav", "mp3"]


class AudioPart(Strict):
    type: Literal["input_audio"]
    input_audio: InputAudio
    prompt_cache_breakpoint: CacheBreakpoint | None = None


class InputFile(Strict):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class FilePart(Strict):
    type: Literal["file"]
    file: InputFile
    prompt_cache_breakpoint: CacheBreakpoint | None = None


UserPart = Annotated[TextPart | ImagePart | AudioPart | FilePart, Discriminator("type")]
AssistantPart = Annotated[TextPart | RefusalPart, Discriminator("type")]

P = TypeVar("P")

MAX_PARTS = 2048
"""Most content parts, and most tool calls, of one message."""

TEXT_OR_PARTS = Discriminator(
    text_or_list,
    custom_error_type="content_type",
    custom_error_message="expected a string or a list of content parts",
)
Content = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[list[P], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True), Tag(LIST)],
    TEXT_OR_PARTS,
]

# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class FunctionCall(Strict):
    name: str
    arguments: str


class CustomCall(Strict):
    name: str
    input: str


class FunctionToolCall(Strict):
    id: str
    type: Literal["function"]
    function: FunctionCall


class CustomToolCall(Strict):
    id: str
    type: Literal["custom"]
    custom: CustomCall


ToolCall = Annotated[FunctionToolCall | CustomToolCall, Discriminator("type")]


class AudioReference(Strict):
    id: str


class DeveloperMessage(Strict):
    role: Literal["developer"]
    content: Content[TextPart]
    name: str | None = None


class SystemMessage(Strict):
    role: Literal["system"]
    content: Content[TextPart]
    name: str | None = None


class UserMessage(Strict):
    role: Literal["user"]
    content: Content[UserPart]
    name: str | None = None


class AssistantMessage(Strict):
    """`reasoning`, `reasoning_content`: the engines' fields for the reasoning of an answer."""

    role: Literal["assistant"]
    content: Content[AssistantPart] | None = None
    name: str | None = None
    refusal: str | None = None
    audio: AudioReference | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)] | None = None
    function_call: FunctionCall | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @property
    def is_empty(self) -> bool:
        others = (self.refusal, self.audio, self.tool_calls, self.function_call)
        return all(value is None for value in (self.content, *others, self.reasoning, self.reasoning_content))


class ToolMessage(Strict):
    role: Literal["tool"]
    content: Content[TextPart]
    tool_call_id: str


class FunctionMessage(Strict):
    role: Literal["function"]
    content: str | None
    name: str


ChatMessage = Annotated[
    DeveloperMessage | SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Discriminator("role"),
]

# ── the conversation ─────────────────────────────────────────────────────────────────────────────────────────────────


def conversation_faults(messages: Sequence[ChatMessage]) -> Iterator[tuple[str, str]]:
    """Yields faults between tool calls and their results, each with the path of the field to change."""
    caller, open_calls, known = 0, set[str](), set[str]()
    for index, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            yield from _answer_faults(message, index, known)
            open_calls.discard(message.tool_call_id)
            continue
        yield from _unanswered(caller, open_calls)
        known = _calls_of(message)
        caller, open_calls = index, set(known)
        if isinstance(message, AssistantMessage) and message.is_empty:
            yield f"messages[{index}].content", "'content' is required unless 'tool_calls' or 'function_call' is set."
    yield from _unanswered(caller, open_calls)


def _calls_of(message: ChatMessage) -> set[str]:
    calls = message.tool_calls if isinstance(message, AssistantMessage) else None
    return {call.id for call in calls or ()}


def _answer_faults(message: ToolMessage, index: int, known: set[str]) -> Iterator[tuple[str, str]]:
    if not known:
        must = "must be a response to a preceding message with 'tool_calls'"
        yield f"messages[{index}].role", f"Invalid parameter: messages with role 'tool' {must}."
    elif message.tool_call_id not in known:
        given = short(message.tool_call_id)
        yield f"messages[{index}].tool_call_id", f"The preceding message has no tool call with the id {given!r}."


def _unanswered(caller: int, open_calls: set[str]) -> Iterator[tuple[str, str]]:
    if open_calls:
        missing = short(", ".join(sorted(open_calls)))
        yield (
            f"messages[{caller}].tool_calls",
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {missing}",
        )
