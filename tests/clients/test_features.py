"""Every feature of the request, with a real model on every backend: answers are as OpenAI publishes them, and a stream
says what the whole answer says.
"""

import json
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.clients.published import fits
from tests.clients.test_demo_model import WEATHER
from worker.stream.fold import fold

pytestmark = pytest.mark.asyncio(loop_scope="module")

PARIS = [{"role": "user", "content": "What is the weather in Paris?"}]
JSON = [{"role": "user", "content": "Give me JSON with name and age"}]
ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
NAMED = {"type": "function", "function": {"name": "add"}}
CALL = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "18C, sunny"}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def schema(strict: bool | None, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": strict, **fields}}


FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello!"}]}]},
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, *JSON]},
    "max_tokens": {"max_tokens": 3},
    "max_completion_tokens": {"max_tokens": None, "max_completion_tokens": 3},
    "stop": {"stop": " can"},
    "stops": {"stop": ["zzz", " How"]},
    "seed": {"seed": 2**63 - 1, "temperature": 1.5},
    "sampling": {"top_p": 0.5, "frequency_penalty": 1, "presence_penalty": -1},
    "logit_bias": {"logit_bias": {"5": 100}, "max_tokens": 3},
    "n": {"n": 3},
    "logprobs": {"logprobs": True},
    "top_logprobs 0": {"logprobs": True, "top_logprobs": 0},
    "top_logprobs 20": {"logprobs": True, "top_logprobs": 20, "n": 2},
    "json_object": {"messages": JSON, "response_format": {"type": "json_object"}, "max_tokens": 100},
    "json_schema": {"messages": JSON, "response_format": schema(True), "max_tokens": 100},
    "json_schema, not strict": {"messages": JSON, "response_format": schema(False), "max_tokens": 100},
    "tools auto": {"messages": PARIS, "tools": [WEATHER, ADD]},
    "tools none": {"messages": PARIS, "tools": [WEATHER], "tool_choice": "none"},
    "tools required": {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 80},
    "a named tool": {"messages": PARIS, "tools": [WEATHER, ADD], "tool_choice": NAMED, "max_tokens": 80},
    "one call": {"messages": PARIS, "tools": [WEATHER], "parallel_tool_calls": False},
    "a tool's result": {"messages": [*PARIS, {"role": "assistant", "tool_calls": [CALL]}, RESULT], "tools": [WEATHER]},
    "functions": {"messages": PARIS, "functions": [WEATHER["function"]]},
    "a named function": {"messages": PARIS, "functions": [ADD["function"]], "function_call": {"name": "add"}},
    "metadata": {"metadata": {"a": "b"}, "user": "me", "safety_identifier": "x", "prompt_cache_key": "y"},
    "tier": {"service_tier": "flex"},
    "reasoning": {"reasoning_effort": "low", "verbosity": "low"},
    "prediction": {"prediction": {"type": "content", "content": "Hello!"}},
    "an engine's own": {"extra_body": {"top_k": 5, "min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}}},
}


def request(fields: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello!"}]
    return {"model": "demo", "messages": messages, "temperature": 0, "seed": 7, "max_tokens": 60, **fields}


def said(choices: Sequence[dict[str, Any]]) -> list[Any]:
    """What does not differ from one answer to the next: ids do."""
    for choice in choices:
        for call in choice["message"].get("tool_calls") or ():
            call["id"] = "?"
    return [(choice["index"], choice["message"], choice["finish_reason"]) for choice in choices]


@pytest.mark.parametrize("fields", FEATURES.values(), ids=list(FEATURES))
async def test_a_stream_says_what_the_whole_answer_says(demo_client: AsyncOpenAI, fields: dict[str, Any]) -> None:
    create = demo_client.chat.completions.create
    whole: ChatCompletion = await create(**request(fields))
    stream = await create(**request(fields), stream=True, stream_options={"include_usage": True})
    chunks: list[ChatCompletionChunk] = [chunk async for chunk in stream]
    fits(ChatCompletion, whole)
    for chunk in chunks:
        fits(ChatCompletionChunk, chunk)
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    folded = fold([chunk.model_dump(exclude_unset=True) for chunk in chunks])
    assert said(folded["choices"]) == said(whole.model_dump(exclude_unset=True)["choices"])
    assert whole.usage
    assert folded["usage"]["completion_tokens"] == whole.usage.completion_tokens


async def test_the_named_tool_is_the_one_that_is_called(demo_client: AsyncOpenAI) -> None:
    answer: ChatCompletion = await demo_client.chat.completions.create(**request(FEATURES["a named tool"]))
    assert [call.function.name for call in answer.choices[0].message.tool_calls or ()] == ["add"]
    older: ChatCompletion = await demo_client.chat.completions.create(**request(FEATURES["a named function"]))
    assert older.choices[0].finish_reason == "function_call"
    assert older.choices[0].message.function_call
    assert older.choices[0].message.function_call.name == "add"


async def test_json_is_json(demo_client: AsyncOpenAI) -> None:
    for feature in ("json_object", "json_schema", "json_schema, not strict"):
        answer: ChatCompletion = await demo_client.chat.completions.create(**request(FEATURES[feature]))
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


async def test_log_probabilities_come_without_alternatives(demo_client: AsyncOpenAI) -> None:
    answer: ChatCompletion = await demo_client.chat.completions.create(**request(FEATURES["top_logprobs 0"]))
    assert answer.choices[0].logprobs
    tokens = answer.choices[0].logprobs.content or []
    assert tokens
    assert all(token.top_logprobs == [] for token in tokens)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
        "messages[0].content[0]",
    ),
    "audio": ({"modalities": ["text", "audio"], "audio": {"format": "wav", "voice": "ash"}}, "modalities"),
    "a tool message alone": ({"messages": [*PARIS, RESULT]}, "messages[1].role"),
    "broken arguments": (
        {
            "messages": [
                *PARIS,
                {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "add", "arguments": "{"}}]},
                RESULT,
            ]
        },
        "messages",
    ),
    "a tool that has no such form": ({"tools": [{"type": "custom", "custom": {"name": "run"}}]}, "tools"),
    "a schema of nothing": ({"response_format": schema(True, schema={"type": "nothing"})}, "response_format"),
    "a tool's schema of nothing": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "nothing"}}}]},
        "tools",
    ),
    "an engine's own": ({"extra_body": {"top_k": "many"}}, "top_k"),
}


@pytest.mark.parametrize(("fields", "param"), REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_done_is_a_bad_request(
    demo_client: AsyncOpenAI, fields: dict[str, Any], param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        await demo_client.chat.completions.create(**request(fields), stream=stream)
    assert (error.value.type, error.value.code, error.value.param) == ("invalid_request_error", "invalid_value", param)
