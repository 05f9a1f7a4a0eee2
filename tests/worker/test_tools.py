"""Tools that an answer may call."""

from typing import Any

import pytest

from worker.openai.allowed_tools import with_allowed_tools, without_empty_tools

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("add", "search")]
CUSTOM = {"type": "custom", "custom": {"name": "run"}}


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize("choice", [None, "auto", "required", {"type": "function", "function": {"name": "add"}}])
def test_other_choices_are_left_to_the_engine(choice: Any) -> None:
    request = {"tools": TOOLS, "tool_choice": choice}
    assert with_allowed_tools(request) == request


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_only_allowed_tools_are_passed_on(mode: str) -> None:
    request = {"tools": [*TOOLS, CUSTOM], "tool_choice": allowed("search", mode=mode), "n": 2}
    assert with_allowed_tools(request) == {"tools": [TOOLS[1]], "tool_choice": mode, "n": 2}


def test_without_allowed_tools_none_is_called() -> None:
    request = {"tools": TOOLS, "tool_choice": allowed(mode="required")}
    assert with_allowed_tools(request) == {"tools": TOOLS, "tool_choice": "none"}


@pytest.mark.parametrize(
    "fields", [{"tools": []}, {"tools": None}, {"tool_choice": "auto"}, {"tools": [], "parallel_tool_calls": True}]
)
def test_fields_that_need_tools_are_dropped_where_there_are_none(fields: dict[str, Any]) -> None:
    assert without_empty_tools({"n": 2, **fields}) == {"n": 2}


def test_fields_that_need_tools_stay_with_them() -> None:
    request = {"tools": TOOLS, "tool_choice": "none", "parallel_tool_calls": False}
    assert without_empty_tools(request) == request
