"""llama.cpp's deviations from OpenAI are corrected, for the managed process and for a separate server."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from shared.errors import EngineRefused
from tests.worker.engines.conftest import SETTINGS
from tests.worker.engines.requests import ask, ask_long, read, text_of
from worker.engines.base import Engine
from worker.engines.open_engine import open_engine
from worker.stream.fold import fold

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(params=["llamacpp", "openai"], scope="module", loop_scope="module")
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """Shared by all tests; each leaves it idle."""
    settings = SETTINGS[request.param]
    if request.param == "openai":
        settings = replace(settings, url=request.getfixturevalue("llama_server_url"))
    engine = open_engine(settings)
    await engine.start()
    yield engine
    await engine.close()


async def test_the_card_has_the_models_modalities(engine: Engine) -> None:
    assert engine.card.modalities == ("text",)


async def test_more_choices_than_slots_are_all_counted(engine: Engine) -> None:
    one = (await engine.complete(ask(max_tokens=6, ignore_eos=True)))["usage"]
    request = ask(n=10, temperature=5, top_k=0, top_p=1, min_p=0, max_tokens=6, ignore_eos=True)
    completion = await engine.complete(request)
    assert len(completion["choices"]) == 10
    assert len({choice["message"]["content"] for choice in completion["choices"]}) > 1
    assert completion["usage"]["completion_tokens"] == 60
    assert completion["usage"]["prompt_tokens"] == one["prompt_tokens"]


async def test_closing_a_stream_of_many_choices_frees_its_slots(engine: Engine) -> None:
    stream = engine.generate(ask_long(n=engine.concurrency))
    for _ in range(engine.concurrency * 2):
        await anext(stream)
    await stream.aclose()
    answer = await engine.complete(ask(n=engine.concurrency))
    assert len(answer["choices"]) == engine.concurrency


def called(arguments: str) -> list[dict[str, Any]]:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    return [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
    ]


def schema(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def part(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": "x"}, "tools"),
    ({"tools": [{"type": "custom", "custom": {"name": "input"}}]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "wat"}}}]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": 7}}}]}, "tools"),
    (part(type="image_url", image_url={"url": "data:,x"}), "messages"),
    (part(type="input_audio", input_audio={"data": "AAAA", "format": "wav"}), "messages"),
    (part(type="file", file={"file_id": "x"}), "messages"),
    ({"messages": called("{bad")}, "messages"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"response_format": {"type": "structural_tag"}}, "response_format"),
    (schema({"type": "wat"}), "response_format"),
    (schema({"type": "object", "properties": []}), "response_format"),
    (schema({"$ref": "#/$defs/nowhere"}), "response_format"),
    (schema({"$ref": "https://127.0.0.1:1/x.json"}), "response_format"),
    (schema({"type": "string", "minLength": 100_000}), "response_format"),
    (schema(False), "response_format"),
    (schema(nested(900)), "response_format"),
    ({"chat_template_kwargs": nested(900)}, "chat_template_kwargs"),
    (schema([{"type": "string"}]), "response_format"),
    (schema({"type": "object", "properties": {"a": False}, "required": ["a"]}), "response_format"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": False}}]}, "tools"),
    ({"grammar": "root ::= nothing"}, "grammar"),
    ({"top_k": "x"}, "top_k"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[f"{param}-{at}" for at, (_, param) in enumerate(REFUSED)])
async def test_unsupported_requests_are_refused(engine: Engine, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(EngineRefused) as refused:
        await read(engine, ask(**fields))
    assert refused.value.param == param
    with pytest.raises(EngineRefused):
        await engine.complete(ask(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 2**63 - 1},
        {"seed": -(2**63)},
        {"stop": ["", "zzz"]},
        {"logit_bias": {"9" * 19: 5}},
        {"tools": []},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": called("")},
        {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, *called("{}")]},
        schema({}),
        schema({"enum": ["a", 1, None]}),
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
    ],
    ids=str,
)
async def test_requests_that_openai_accepts_are_answered(engine: Engine, fields: dict[str, Any]) -> None:
    answer = await engine.complete(ask(max_tokens=8, **fields))
    assert answer["choices"][0]["finish_reason"]


NULL_CALL = {"id": "1", "type": "function", "index": None, "function": {"name": "add", "arguments": None, "x": None}}
NULL_MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief.", "name": None},
    {"role": "user", "content": [{"type": "text", "text": "Hi", "image_url": None, "cache_control": None}, None]},
    {"role": "assistant", "content": None, "refusal": None, "audio": None, "function_call": None, "tool_calls": None},
    {"role": "user", "content": "Hi", "tool_calls": None, "tool_call_id": None, "reasoning_content": None},
    {"role": "assistant", "content": None, "tool_calls": [NULL_CALL], "annotations": None, "reasoning_content": None},
    {"role": "tool", "tool_call_id": "1", "content": None, "name": None},
    {"role": "user", "content": "Hi"},
]
NULL_FUNCTION = {"name": "f", "description": None, "strict": None, "parameters": None}
NULL_OPTIONS = {
    "stream_options": {"include_usage": None},
    "logit_bias": {"5": None},
    "stop": ["zzz", None],
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "description": None, "schema": None}},
    "chat_template_kwargs": {"enable_thinking": None},
    "metadata": {"a": None},
    "prediction": {"type": None, "content": None},
    "reasoning": {"effort": None},
    "stream": None,
    "n": None,
    "seed": None,
    "logprobs": None,
    "top_logprobs": None,
    "user": None,
}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": NULL_MESSAGES},
        *({"messages": [message, {"role": "user", "content": "Hi"}]} for message in NULL_MESSAGES[:4]),
        {"tools": [{"type": "function", "function": NULL_FUNCTION, "custom": None}]},
        {"tools": [{**WEATHER, "cache_control": None}, None], "tool_choice": "auto", "parallel_tool_calls": None},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_weather", "x": None}}},
        {"response_format": {"type": None}},
        {"response_format": {"type": "json_object", "schema": None}},
        NULL_OPTIONS,
    ],
)
async def test_null_means_absent(engine: Engine, fields: dict[str, Any]) -> None:
    answer = await engine.complete(ask(**{"max_tokens": 4, **fields}))
    assert answer["choices"][0]["finish_reason"]


TREE = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}, "any": True}}
SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"payload": True, "items": {"type": "array", "items": True}}},
    {"type": "object", "properties": {"a": {"type": "string"}, "b": False}, "additionalProperties": True},
    {"type": "array", "items": False},
    {"type": "array", "prefixItems": [True, {"type": "integer"}], "items": False},
    {"anyOf": [False, True]},
    {"allOf": [True, {"type": "string"}]},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": True}},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/A~1B"}}, "$defs": {"A/B": {"type": "string"}}},
    {"type": "object", "additionalProperties": {"type": "array", "items": True}},
    {"type": "object", "properties": {"a": {"type": "string", "enum": None, "format": None}}, "required": None},
    {"type": "string", "minLength": 1.0},
    {"type": "integer", "maximum": 1e300},
    TREE,
    {},
    True,
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
async def test_valid_schemas_are_translated(engine: Engine, schema: Any) -> None:
    tool = {"type": "function", "function": {"name": "t", "parameters": schema}}
    named = {"name": "x", "schema": schema}
    for fields in (
        {"tools": [tool], "tool_choice": "required"},
        {"response_format": {"type": "json_schema", "json_schema": named}},
    ):
        answer = await engine.complete(ask(max_tokens=4, **fields))
        assert answer["choices"][0]["finish_reason"]


async def test_no_limit_is_too_high(engine: Engine) -> None:
    for limit in (2**31, 2**63 - 1):
        assert (await engine.complete(ask("Hello!", max_tokens=limit)))["choices"][0]["finish_reason"] == "stop"


async def test_calls_in_parallel_keep_their_ids_and_indexes(engine: Engine) -> None:
    request = ask(
        "What is the weather in Paris and in Rome?",
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=True,
        max_tokens=80,
    )
    parts = [
        part
        for chunk in await read(engine, request)
        for choice in chunk["choices"]
        for part in choice["delta"].get("tool_calls") or ()
    ]
    first = [part for part in parts if part.get("id")]
    assert [part["index"] for part in first] == [0, 1]
    assert len({part["id"] for part in first}) == 2
    assert {part["index"] for part in parts} == {0, 1}
    assert all(part["function"]["name"] == "get_weather" and part["type"] == "function" for part in first)


async def test_no_tool_is_called_with_tool_choice_none(engine: Engine) -> None:
    request = ask("What is the weather in Paris?", tools=[WEATHER], tool_choice="none", max_tokens=40)
    assert "tool_calls" not in fold(await read(engine, request))["choices"][0]["message"]


async def test_the_named_tool_is_called_despite_a_response_format(engine: Engine) -> None:
    choice = {"type": "function", "function": {"name": "add"}}
    request = ask(
        "What is the weather in Paris?",
        tools=[WEATHER, ADD],
        tool_choice=choice,
        response_format={"type": "json_object"},
        max_tokens=60,
    )
    answer = fold(await read(engine, request))["choices"][0]
    assert [call["function"]["name"] for call in answer["message"]["tool_calls"]] == ["add"]
    assert answer["finish_reason"] == "tool_calls"


async def test_logprobs_without_alternatives(engine: Engine) -> None:
    for fields in ({}, {"top_logprobs": 0}):
        answer = await engine.complete(ask(max_tokens=3, logprobs=True, **fields))
        tokens = answer["choices"][0]["logprobs"]["content"]
        assert len(tokens) == 3
        assert all(token["top_logprobs"] == [] for token in tokens)


async def test_the_same_seed_gives_the_same_answer(engine: Engine) -> None:
    request = ask(temperature=1.2, max_tokens=40)
    assert text_of(await read(engine, request)) == text_of(await read(engine, request))
