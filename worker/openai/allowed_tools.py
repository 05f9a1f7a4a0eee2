"""The tools that an answer may call, in terms that every engine knows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

Tool = Mapping[str, Any]


def tool_name(tool: Tool) -> str:
    """`{"type": "function", "function": {"name": …}}`, and likewise for other types."""
    definition: Mapping[str, Any] = tool.get(str(tool.get("type"))) or {}
    return str(definition.get("name"))


def only(tools: Iterable[Tool], names: Sequence[str]) -> list[Tool]:
    return [tool for tool in tools if tool_name(tool) in names]


def with_allowed_tools(request: dict[str, Any]) -> dict[str, Any]:
    """`allowed_tools` is OpenAI's alone: to an engine, only those that are allowed are there."""
    choice = request.get("tool_choice")
    if not isinstance(choice, dict):
        return request
    chosen = cast(dict[str, Any], choice)
    if chosen.get("type") != "allowed_tools":
        return request
    allowed: dict[str, Any] = chosen.get("allowed_tools") or {}
    tools = only(request.get("tools") or (), [tool_name(tool) for tool in allowed.get("tools") or ()])
    if not tools:
        return {**request, "tool_choice": "none"}
    return {**request, "tools": tools, "tool_choice": allowed.get("mode", "auto")}
