"""OpenAI's older functions: engines see tools, and clients see function calls."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.answers import Answer, Call, Choice, chunks_of, pieces_of
from tests.worker.scripted import USAGE, chunk, delta
from tests.worker.test_resume import gone_on, log_of
from worker.engines.base import Chunk
from worker.openai import legacy_functions
from worker.stream.fold import fold
from worker.stream.resume import Sent, texts_of

ADD = {"name": "add", "parameters": {"type": "object"}}
ASKED = {"functions": [ADD]}
CALL = {"name": "add", "arguments": '{"a": 1}'}
USER = {"role": "user", "content": "Hi"}


def newer(**fields: Any) -> dict[str, Any]:
    return legacy_functions.as_tools({"messages": [USER], **fields})


def test_a_request_without_functions_stays_as_it_is() -> None:
    request = {"messages": [USER], "tools": [{"type": "function", "function": ADD}], "tool_choice": "auto", "n": 2}
    assert legacy_functions.as_tools(request) == request


@pytest.mark.parametrize(
    ("choice", "tool_choice"),
    [("none", "none"), ("auto", "auto"), ({"name": "add"}, {"type": "function", "function": {"name": "add"}})],
)
def test_functions_become_tools(choice: Any, tool_choice: Any) -> None:
    assert newer(functions=[ADD], function_call=choice) == {
        "messages": [USER],
        "tools": [{"type": "function", "function": ADD}],
        "tool_choice": tool_choice,
        "parallel_tool_calls": False,
    }


def test_function_results_are_matched_to_their_calls() -> None:
    called = {"role": "assistant", "content": None, "function_call": CALL}
    result = {"role": "function", "name": "add", "content": "3"}
    messages = newer(messages=[USER, called, result, called, {**result, "content": None}])["messages"]
    assert messages[1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": CALL}],
    }
    assert messages[2] == {"role": "tool", "tool_call_id": "call_1", "content": "3"}
    assert messages[4] == {"role": "tool", "tool_call_id": "call_3", "content": ""}


async def told(chunks: list[Chunk]) -> list[Chunk]:
    async def engine() -> AsyncGenerator[Chunk, None]:
        for each in chunks:
            yield each

    return [each async for each in legacy_functions.answered(engine(), ASKED)]


async def test_a_stream_of_a_tool_call_becomes_a_function_call() -> None:
    head = {"index": 0, "id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a"'}}
    chunks = [
        chunk(delta(tool_calls=[head])),
        chunk(delta(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}])),
        chunk(delta(finish="tool_calls")),
        chunk(usage=USAGE),
    ]
    (choice,) = fold(await told(chunks))["choices"]
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None, "function_call": CALL}
    assert choice["finish_reason"] == "function_call"


def test_a_completion_with_a_tool_call_becomes_a_function_call() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "type": "function", "function": CALL}]}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    (choice,) = legacy_functions.completed(answer, ASKED)["choices"]
    assert choice["message"] == {"role": "assistant", "content": None, "function_call": CALL}
    assert choice["finish_reason"] == "function_call"
    assert legacy_functions.completed(answer, {}) is answer


@st.composite
def streams(draw: st.DrawFn, answer: Answer) -> list[Chunk]:
    return [{**each, "choices": [older(part) for part in each["choices"]]} for each in draw(chunks_of(answer))]


def older(part: dict[str, Any]) -> dict[str, Any]:
    said = {key: value for key, value in part["delta"].items() if key != "tool_calls"}
    for call in part["delta"].get("tool_calls", ()):
        said["function_call"] = call["function"]
    return {**part, "delta": said}


CALLED = st.builds(
    lambda arguments: Answer([Choice("", [Call("x", "add", arguments)])]), st.text(alphabet='{}":a1', max_size=12)
)


@given(st.data(), CALLED)
def test_an_interrupted_function_call_is_replayed(data: st.DataObject, answer: Answer) -> None:
    first, again = data.draw(streams(answer)), data.draw(streams(answer))
    seen = log_of(first[: data.draw(st.integers(0, len(first)))])
    added, folding = gone_on(Sent.from_log(seen), again)
    assert Sent.from_log(seen + added).texts == Sent.from_log(log_of(first)).texts
    arguments = answer.choices[0].calls[0].arguments
    assert folding.completion["choices"][0]["message"]["function_call"] == {"name": "add", "arguments": arguments}


@given(st.data(), st.text(min_size=1, max_size=12))
def test_a_calls_text_is_kept_apart(data: st.DataObject, arguments: str) -> None:
    pieces = data.draw(pieces_of(arguments))
    found = [text for piece in pieces for text in texts_of(delta(function_call={"arguments": piece}))]
    assert found == [((0, "arguments", -1), piece) for piece in pieces]
