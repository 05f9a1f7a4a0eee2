"""Translates the tools that an answer may call into fields that every engine knows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

Tool = Mapping[str, Any]

ONLY_WITH_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
"""Fields that OpenAI and strict servers refuse where there are no tools."""


def tool_name(tool: Tool) -> str:
    """Returns the name in `{"type": "function", "function": {"name": …}}`; likewise for other types."""
    definition: Mapping[str, Any] = tool.get(str(tool.get("type"))) or {}
    return str(definition.get("name"))


def only(tools: Iterable[Tool], names: Sequence[str]) -> list[Tool]:
    return [tool for tool in tools if tool_name(tool) in names]


def with_allowed_tools(request: dict[str, Any]) -> dict[str, Any]:
    """Replaces OpenAI's `allowed_tools` choice, which engines do not know, by a list of only the allowed tools."""
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


def without_empty_tools(request: dict[str, Any]) -> dict[str, Any]:
    """Drops an empty `tools` and the fields that need tools. The API has accepted only choices that need none."""
    if request.get("tools"):
        return request
    return {key: value for key, value in request.items() if key not in ONLY_WITH_TOOLS}
