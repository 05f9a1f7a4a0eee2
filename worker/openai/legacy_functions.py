"""Translates OpenAI's older `functions` to `tools` and back: few engines still know functions. Pure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

Chunk = dict[str, Any]


def as_tools(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the request with functions, their calls and their results as tools."""
    messages = list(_messages(request.get("messages") or []))
    newer = {key: value for key, value in request.items() if key not in ("functions", "function_call")}
    newer["messages"] = messages
    if request.get("functions"):
        newer["tools"] = [{"type": "function", "function": function} for function in request["functions"]]
        newer["parallel_tool_calls"] = False
        choice = request.get("function_call")
        if choice is not None:
            newer["tool_choice"] = {"type": "function", "function": choice} if isinstance(choice, dict) else choice
    return newer


def _messages(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields the messages in the newer form. A result has no call id, so it belongs to the call before it."""
    call_id = "call_0"
    for index, message in enumerate(messages):
        if message.get("role") == "function":
            yield {"role": "tool", "tool_call_id": call_id, "content": message.get("content") or ""}
        elif message.get("function_call"):
            call_id = f"call_{index}"
            call = {"id": call_id, "type": "function", "function": message["function_call"]}
            others = {key: value for key, value in message.items() if key != "function_call"}
            yield {**others, "tool_calls": [call]}
        else:
            yield message


def answered(chunks: AsyncGenerator[Chunk, None], asked: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
    """Translates an engine's stream back, where the client sent functions."""
    return _with_function_calls(chunks) if asked.get("functions") else chunks


async def _with_function_calls(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield {**chunk, "choices": [_choice(part, "delta") for part in chunk["choices"]]}


def completed(answer: Mapping[str, Any], asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """Translates an engine's completion back, where the client sent functions."""
    if not asked.get("functions"):
        return answer
    return {**answer, "choices": [_choice(choice, "message") for choice in answer.get("choices") or ()]}


def _choice(choice: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Translates a choice's `field` (`delta` or `message`): functions allow only one call."""
    said = {key: value for key, value in choice[field].items() if key != "tool_calls"}
    for call in choice[field].get("tool_calls") or ():
        if call.get("index", 0) == 0:
            said["function_call"] = dict(call.get("function") or {})
            break
    reason = choice.get("finish_reason")
    return {**choice, field: said, "finish_reason": "function_call" if reason == "tool_calls" else reason}
