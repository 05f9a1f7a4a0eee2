"""The request's check: every field's range, and a path to whatever is wrong."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsBase, CompletionCreateParamsStreaming

from shared.errors import InvalidRequest
from shared.schema import MAX_NESTING, QUOTED, ChatCompletionRequest, check_request, nesting, parse_json, parse_object

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "add"}}
NAMED = {"type": "function", "function": {"name": "add"}}
TYPED = {"type": "custom", "custom": {"name": "run"}}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
RUN = {"id": "2", "type": "custom", "custom": {"name": "run", "input": "x"}}
CALLED = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "18"}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": {"type": "object"}, "strict": True}}


def allowed(*tools: Any, mode: str = "auto") -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [*tools]}}


def said(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": [*parts]}


TEXT = {"type": "text", "text": "Hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,x"}}


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
    "logit_bias": [{}, {"50256": -100, "1": 100}, {"5": 0.5}],
    "metadata": [{}, {str(number): "x" for number in range(16)}, {"k" * 64: "v" * 512}],
    "service_tier": ["auto", "default", "flex", "priority", "fast", "scale", None],
    "response_format": [
        {"type": "text"},
        {"type": "json_object"},
        FORMAT,
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "structural_tag", "format": {}},
        None,
    ],
    "tool_choice": ["none", "auto", None],
    "deadline_seconds": [0.5, 30, 30 * 86400],
    "modalities": [["text"], [], None],
    "audio": [{"format": "wav", "voice": "alloy"}, {"format": "pcm16", "voice": {"id": "voice_1"}}, None],
    "functions": [[{"name": "f"}], [{"name": "f", "parameters": {"type": "object"}}], None],
    "function_call": ["none", "auto", None],
    "moderation": [{"model": "m"}, {"model": "m", "policy": {"input": {"mode": "score"}}}, None],
    "parallel_tool_calls": [True, False, None],
    "prediction": [{"type": "content", "content": "x"}, {"type": "content", "content": [TEXT]}, None],
    "prompt_cache_key": ["x", None],
    "prompt_cache_options": [{}, {"mode": "explicit", "ttl": "30m"}],
    "prompt_cache_retention": ["in_memory", "24h", None],
    "reasoning_effort": ["none", "minimal", "low", "medium", "high", "xhigh", "max", None],
    "safety_identifier": ["x" * 128, None],
    "tools": [[], [TOOL, TYPED], None],
    "user": ["me", None],
    "verbosity": ["low", "medium", "high", None],
    "web_search_options": [{}, {"user_location": {"type": "approximate", "approximate": {"city": "Paris"}}}],
    "unknown_to_us": [{"deep": [1, None]}],
}

BAD: dict[str, list[Any]] = {
    "model": [None, 7, "", "m" * 201],
    "messages": [None, [], {}, "Hi"],
    "frequency_penalty": [-2.01, 2.01, "0"],
    "temperature": [-0.01, 2.01, "1", [1]],
    "top_p": [-0.1, 1.1],
    "n": [0, 129, 1.5, 1.0, "1", True],
    "seed": [2**63, -(2**63) - 1, 10**30, 1.5, True, "7"],
    "max_tokens": [0, -1, 2**63, 10**30, 1.5, True, "7"],
    "max_completion_tokens": [0, -1, 2**63, 10**30, 1.5, True, "7"],
    "stop": [["a", "b", "c", "d", "e"], 7, {}],
    "stream": ["true", 1],
    "stream_options": [{"include_usage": True}],
    "logprobs": [1],
    "top_logprobs": [1, 0, 21, -1],
    "metadata": [{str(number): "x" for number in range(17)}, []],
    "service_tier": ["gold", 1],
    "tools": ["x", {}, [TOOL] * 129],
    "tool_choice": ["sometimes", "required", 7, [], NAMED],
    "deadline_seconds": [0, -1, 30 * 86400 + 1],
    "audio": ["alloy", []],
    "functions": [[], {}, [{"name": "f"}] * 129],
    "function_call": ["required", 7],
    "logit_bias": [[], "x"],
    "modalities": ["text", {}],
    "moderation": ["x"],
    "parallel_tool_calls": ["true", 0],
    "prediction": ["x"],
    "prompt_cache_key": [7],
    "prompt_cache_retention": ["12h"],
    "reasoning_effort": ["extreme", 1],
    "response_format": ["json_object", []],
    "safety_identifier": ["x" * 129, 1],
    "user": [7, {}],
    "verbosity": ["loud"],
    "web_search_options": [True],
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
    ({"messages": [said(IMAGE, role="system")]}, "messages[0].content[0].type"),
    ({"messages": [said(IMAGE, role="assistant")]}, "messages[0].content[0].type"),
    ({"messages": [said({"type": "refusal", "refusal": "no"})]}, "messages[0].content[0].type"),
    ({"messages": [said({"type": "image_url", "image_url": "x"})]}, "messages[0].content[0].image_url"),
    (
        {"messages": [said({"type": "image_url", "image_url": {"url": "x", "detail": "most"}})]},
        "messages[0].content[0].image_url.detail",
    ),
    (
        {"messages": [said({"type": "input_audio", "input_audio": {"data": "", "format": "ogg"}})]},
        "messages[0].content[0].input_audio.format",
    ),
    ({"messages": [said({"type": "file", "file": {"file_id": 7}})]}, "messages[0].content[0].file.file_id"),
    (
        {"messages": [said(TEXT | {"prompt_cache_breakpoint": {}})]},
        "messages[0].content[0].prompt_cache_breakpoint.mode",
    ),
    ({"messages": [USER | {"name": 7}]}, "messages[0].name"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].name"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
    ({"messages": [{"role": "assistant", "content": None, "refusal": None}]}, "messages[0].content"),
    ({"messages": [{"role": "assistant", "audio": {}}]}, "messages[0].audio.id"),
    ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call.arguments"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [USER, RESULT]}, "messages[1].role"),
    ({"messages": [CALLED, RESULT, USER, RESULT]}, "messages[3].role"),
    ({"messages": [CALLED, RESULT | {"tool_call_id": "9"}]}, "messages[1].tool_call_id"),
    ({"messages": [USER, CALLED]}, "messages[1].tool_calls"),
    ({"messages": [CALLED, USER, RESULT]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": [CALL, RUN]}, RESULT]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[0].tool_calls[0].type"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": None}]}]},
        "messages[0].tool_calls[0].function",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": {}}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"type": "function"}]}]}, "messages[0].tool_calls[0].id"),
    ({"tools": [{"type": "function", "function": {"name": "a.b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "n" * 65}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
    ({"tools": [{"type": "custom", "custom": {"name": ""}}]}, "tools[0].custom.name"),
    (
        {"tools": [{"type": "custom", "custom": {"name": "x", "format": {"type": "xml"}}}]},
        "tools[0].custom.format.type",
    ),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [TOOL, {"type": "function", "function": {"name": "a b"}}]}, "tools[1].function.name"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{}]}, "tools[0].type"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": {"hello": 1}}, "logit_bias.hello"),
    ({"logit_bias": {"-1": {}}}, "logit_bias.-1"),
    ({"stop": ["a", 7]}, "stop[1]"),
    ({"modalities": ["text", "smell"]}, "modalities[1]"),
    ({"modalities": ["audio"]}, "audio"),
    ({"audio": {"voice": "alloy"}}, "audio.format"),
    ({"audio": {"voice": 7, "format": "wav"}}, "audio.voice"),
    ({"functions": [{"name": "a b"}]}, "functions[0].name"),
    ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call.name"),
    ({"functions": [{"name": "f"}], "function_call": {}}, "function_call.name"),
    ({"functions": [{"name": "f"}], "tools": [TOOL]}, "functions"),
    ({"moderation": {}}, "moderation.model"),
    ({"moderation": {"model": "m", "policy": {"output": {"mode": "block"}}}}, "moderation.policy.output.mode"),
    ({"prediction": {"content": "x"}}, "prediction.type"),
    ({"prediction": {"type": "content", "content": [IMAGE]}}, "prediction.content[0].type"),
    ({"prompt_cache_options": {"ttl": "1h"}}, "prompt_cache_options.ttl"),
    ({"web_search_options": {"search_context_size": "huge"}}, "web_search_options.search_context_size"),
    ({"web_search_options": {"user_location": {"type": "exact"}}}, "web_search_options.user_location.type"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}}, "response_format.json_schema.name"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": True}}},
        "response_format.json_schema.schema",
    ),
    ({"tools": [TOOL], "tool_choice": {}}, "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": TYPED}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": allowed(NAMED, TYPED)}, "tool_choice.allowed_tools.tools[1]"),
    ({"tools": [TOOL], "tool_choice": allowed({"type": "function"})}, "tool_choice.allowed_tools.tools[0].function"),
    ({"tools": [TOOL], "tool_choice": allowed(NAMED, mode="none")}, "tool_choice.allowed_tools.mode"),
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
    "messages",
    [
        [{"role": "developer", "content": "x"}],
        [said(TEXT | {"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}, role="system") | {"name": "me"}],
        [CALLED | {"content": None}, RESULT],
        [{"role": "assistant", "tool_calls": [CALL, RUN]}, RESULT | {"tool_call_id": "2"}, RESULT, USER],
        [CALLED, RESULT, CALLED, RESULT | {"content": [TEXT]}],
        [{"role": "assistant", "content": ""}],
        [{"role": "assistant", "refusal": "no"}],
        [{"role": "assistant", "content": None, "reasoning_content": "Hm."}],
        [{"role": "assistant", "audio": {"id": "audio_1"}}],
        [said({"type": "refusal", "refusal": "no"}, TEXT, role="assistant")],
        [{"role": "assistant", "function_call": {"name": "f", "arguments": ""}}],
        [{"role": "function", "name": "f", "content": None}],
        [said(TEXT, {"type": "image_url", "image_url": {"url": "data:,x", "detail": "original"}})],
        [said({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})],
        [said({"type": "file", "file": {"file_id": "x"}})],
    ],
    ids=lambda messages: messages[0]["role"],
)
def test_messages_of_every_kind_are_taken(messages: list[Any]) -> None:
    assert check_request(request(messages=messages))


def test_every_published_field_is_known() -> None:
    published = CompletionCreateParamsStreaming.__annotations__ | CompletionCreateParamsBase.__annotations__
    assert set(published) <= set(ChatCompletionRequest.model_fields)


def test_rules_that_span_fields() -> None:
    assert check_request(request(logprobs=True, top_logprobs=20))
    assert check_request(request(tools=[TOOL], tool_choice="required"))
    assert check_request(request(tools=[TOOL], tool_choice=NAMED))
    assert check_request(request(tools=[TOOL, TYPED], tool_choice=TYPED))
    assert check_request(request(tools=[TOOL, TYPED], tool_choice=allowed(TYPED, NAMED, mode="required")))
    assert check_request(request(functions=[{"name": "f"}], function_call={"name": "f"}))
    assert check_request(request(modalities=["text", "audio"], audio={"format": "wav", "voice": "ash"}))
    assert check_request(request(max_tokens=5, max_completion_tokens=5))
    assert check_request(request(stream=True, stream_options={"include_usage": True})).include_usage
    assert check_request(request(stream_options={"include_usage": True}), stream=True).include_usage


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"n": "1"}, "Invalid type for 'n': expected an integer, but got a string instead."),
        ({"n": 1.5}, "Invalid type for 'n': expected an integer, but got a decimal number instead."),
        (
            {"stream": None, "logprobs": 1},
            "Invalid type for 'logprobs': expected a boolean, but got an integer instead.",
        ),
        ({"tools": {}}, "Invalid type for 'tools': expected an array, but got an object instead."),
        ({"messages": [None]}, "Invalid type for 'messages[0]': expected an object, but got null instead."),
    ],
)
def test_a_wrong_type_is_told_in_jsons_words(fields: dict[str, Any], says: str) -> None:
    assert refusal(request(**fields)).message == says


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
        assert error.param.replace("[", ".").split(".")[0] in {*fields, "audio"}


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
        check_request(parse_object(body))
