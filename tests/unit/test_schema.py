"""The request's check: every field's range, and a path to whatever is wrong."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from shared.schema import MAX_NESTING, QUOTED, ChatCompletionRequest, check_request, nesting, parse_json, parse_request

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "add"}}
NAMED = {"type": "function", "function": {"name": "add"}}


def request(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **fields}


def refusal(value: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        check_request(value)
    return refused.value


GOOD: dict[str, list[Any]] = {
    "frequency_penalty": [-2, 0, 2, 1.5, None],
    "presence_penalty": [-2, 2],
    "temperature": [0, 2, 0.7, None],
    "top_p": [0, 1],
    "n": [1, 128, None],
    "seed": [0, -(2**63), 2**63 - 1],
    "max_tokens": [1, 2**63 - 1],
    "max_completion_tokens": [1, None],
    "stop": ["x", [], ["a", "b", "c", "d"], None],
    "logit_bias": [{}, {"50256": -100, "1": 100}],
    "metadata": [{}, {str(number): "x" for number in range(16)}, {"k" * 64: "v" * 512}],
    "service_tier": ["auto", "default", "flex", "priority", None],
    "response_format": [{"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": {}}],
    "tool_choice": ["none", "auto", None],
    "deadline_seconds": [0.5, 30, 30 * 86400],
    "modalities": [["text"], ["text", "audio"]],
    "unknown_to_us": [{"deep": [1, None]}],
}

BAD: dict[str, list[Any]] = {
    "model": [None, 7, "", "m" * 201],
    "messages": [None, [], {}, "Hi"],
    "frequency_penalty": [-2.01, 2.01, "0"],
    "temperature": [-0.01, 2.01, "1", [1]],
    "top_p": [-0.1, 1.1],
    "n": [0, 129, 1.5, 1.0, "1", True],
    "seed": [2**63, -(2**63) - 1, 1.5],
    "max_tokens": [0, -1, 2**63],
    "stop": [["a", "b", "c", "d", "e"], 7, {}],
    "stream": ["true", 1],
    "stream_options": [{"include_usage": True}],
    "logprobs": [1],
    "top_logprobs": [1, 0, 21, -1],
    "metadata": [{str(number): "x" for number in range(17)}, []],
    "service_tier": ["gold", 1],
    "tools": ["x", {}],
    "tool_choice": ["sometimes", "required", 7],
    "deadline_seconds": [0, -1, 30 * 86400 + 1],
}

NESTED: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{}]}, "messages[0].role"),
    ({"messages": [USER, {"role": "robot", "content": "x"}]}, "messages[1].role"),
    ({"messages": ["Hi"]}, "messages[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 1}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"type": "function"}]}]}, "messages[0].tool_calls[0].id"),
    ({"tools": [TOOL, {"type": "function", "function": {"name": "a b"}}]}, "tools[1].function.name"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{}]}, "tools[0].type"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"stop": ["a", 7]}, "stop[1]"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice"),
]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in GOOD for value in GOOD[field]])
def test_what_openai_publishes_is_taken(field: str, value: Any) -> None:
    assert check_request(request(**{field: value}))


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in BAD for value in BAD[field]])
def test_what_is_out_of_range_is_refused_by_its_name(field: str, value: Any) -> None:
    error = refusal(request(**{field: value}))
    assert (error.param, error.code) == (field, "invalid_value")
    assert field in error.message


@pytest.mark.parametrize(("fields", "param"), NESTED, ids=[param for _, param in NESTED])
def test_what_is_wrong_deep_inside_has_its_path(fields: dict[str, Any], param: str) -> None:
    assert refusal(request(**fields)).param == param


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_what_is_missing_is_named(missing: str) -> None:
    error = refusal({key: value for key, value in request().items() if key != missing})
    assert (error.param, error.message) == (missing, f"Missing required parameter: '{missing}'.")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "developer", "content": "x"},
        {"role": "system", "content": [{"type": "text", "text": "x"}], "name": "me"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": None}]},
        {"role": "assistant"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "tool", "tool_call_id": "1", "content": "18C"},
        {"role": "function", "name": "f", "content": None},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x", "detail": "low"}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]},
    ],
    ids=lambda message: message["role"],
)
def test_messages_of_every_kind_are_taken(message: dict[str, Any]) -> None:
    assert check_request(request(messages=[message]))


def test_rules_that_span_fields() -> None:
    assert check_request(request(logprobs=True, top_logprobs=20))
    assert check_request(request(tools=[TOOL], tool_choice="required"))
    assert check_request(request(tools=[TOOL], tool_choice=NAMED))
    assert check_request(request(stream=True, stream_options={"include_usage": True})).include_usage
    assert check_request(request(stream_options={"include_usage": True}), stream=True).include_usage


def test_a_webhook_is_refused_and_not_silently_dropped() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_request(request(webhook_url="https://example.org/hook"))
    assert refused.value.param == "webhook_url"


def test_a_refusal_quotes_only_so_much() -> None:
    error = refusal(request(metadata={"k" * 10_000: 1}))
    assert len(error.param or "") < QUOTED + 20
    assert len(error.message) < 3 * QUOTED


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(sorted(ChatCompletionRequest.model_fields)), json_values, max_size=4))
def test_any_request_is_taken_or_refused_by_a_field_it_has_or_lacks(fields: dict[str, Any]) -> None:
    try:
        check_request(request(**fields))
    except InvalidRequest as error:
        assert error.param
        assert error.param.replace("[", ".").split(".")[0] in fields


# ── JSON ──


@pytest.mark.parametrize("depth", [1, MAX_NESTING, MAX_NESTING + 1, 200])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_nesting_has_a_limit(depth: int, brackets: str) -> None:
    opening = "[" if brackets == "[]" else '{"a":'
    body = opening * (depth - 1) + brackets + brackets[1] * (depth - 1)
    if depth <= MAX_NESTING:
        assert nesting(parse_json(body.encode())) == depth
    else:
        with pytest.raises(InvalidRequest, match="nests deeper"):
            parse_json(body.encode())


@given(json_values)
def test_nesting_counts_levels(value: Any) -> None:
    def levels(value: Any) -> int:
        inner = list(value.values()) if isinstance(value, dict) else value
        return 1 + max(map(levels, inner), default=0) if isinstance(inner, list) else 0

    assert nesting(value) == levels(value)


def test_many_brackets_that_are_shallow_are_fine() -> None:
    assert parse_json(json.dumps([[]] * 1000 + ["[" * 1000]).encode())


@given(st.binary(max_size=50))
def test_bytes_are_a_request_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_request(body)
