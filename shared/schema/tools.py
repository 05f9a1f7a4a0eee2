"""Tools and their choice, the older functions, and the response's format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from shared.schema.base import NAME, OBJECT, TEXT, Strict, short, text_or_object

# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


MAX_TOOLS = 128


class FunctionDefinition(Strict):
    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class FunctionTool(Strict):
    type: Literal["function"]
    function: FunctionDefinition


class PlainInput(Strict):
    type: Literal["text"]


class Grammar(Strict):
    definition: str
    syntax: Literal["lark", "regex"]


class GrammarInput(Strict):
    type: Literal["grammar"]
    grammar: Grammar


class CustomDefinition(Strict):
    name: str = Field(min_length=1)
    description: str | None = None
    format: Annotated[PlainInput | GrammarInput, Discriminator("type")] | None = None


class CustomTool(Strict):
    type: Literal["custom"]
    custom: CustomDefinition


Tool = Annotated[FunctionTool | CustomTool, Discriminator("type")]


class Named(Strict):
    name: str


class NamedFunction(Strict):
    type: Literal["function"]
    function: Named


class NamedCustom(Strict):
    type: Literal["custom"]
    custom: Named


NamedTool = Annotated[NamedFunction | NamedCustom, Discriminator("type")]


class Allowed(Strict):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(max_length=MAX_TOOLS, fail_fast=True)]


class AllowedTools(Strict):
    type: Literal["allowed_tools"]
    allowed_tools: Allowed


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(TEXT)]
    | Annotated[NamedFunction | NamedCustom | AllowedTools, Discriminator("type"), Tag(OBJECT)],
    Discriminator(
        text_or_object,
        custom_error_type="tool_choice_type",
        custom_error_message="expected 'none', 'auto', 'required', or an object that names a tool",
    ),
]
FunctionChoice = Annotated[
    Annotated[Literal["none", "auto"], Tag(TEXT)] | Annotated[Named, Tag(OBJECT)],
    Discriminator(
        text_or_object,
        custom_error_type="function_call_type",
        custom_error_message="expected 'none', 'auto', or an object that names a function",
    ),
]


def names_of(tools: list[Tool] | None) -> set[tuple[str, str]]:
    """Returns the type and name of each tool."""
    return {
        ("function", tool.function.name) if isinstance(tool, FunctionTool) else ("custom", tool.custom.name)
        for tool in tools or ()
    }


def choice_faults(choice: ToolChoice, tools: list[Tool] | None) -> Iterator[tuple[str, str]]:
    """Yields faults between a choice and the request's tools, each with the path of the field to change."""
    known = names_of(tools)
    match choice:
        case "none" | "auto":
            return
        case _ if not tools:
            yield "tool_choice", "'tool_choice' is only allowed when 'tools' are specified."
        case "required":
            return
        case AllowedTools():
            for index, tool in enumerate(choice.allowed_tools.tools):
                yield from _unknown(f"tool_choice.allowed_tools.tools[{index}]", tool, known)
        case _:
            yield from _unknown("tool_choice", choice, known)


def _unknown(param: str, named: NamedTool, known: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    name = named.function.name if isinstance(named, NamedFunction) else named.custom.name
    if (named.type, name) not in known:
        yield param, f"tool_choice names the {named.type} {short(name)!r}, which is not among 'tools'."


# ── the response's format ────────────────────────────────────────────────────────────────────────────────────────────


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchema(Strict):
    name: str = Field(pattern=NAME)
    description: str | None = None
    # A plain `schema` would hide pydantic's own.
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class StructuralTagFormat(Strict):
    """An addition of vLLM and SGLang."""

    type: Literal["structural_tag"]


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | StructuralTagFormat, Discriminator("type")
]
