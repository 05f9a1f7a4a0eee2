"""What one request may consist of is counted before anything is built."""

import asyncio
import json
import threading
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from producer.admission.large_requests import LargeRequestChecks
from shared.errors import InvalidRequest
from shared.schema import ChatCompletionRequest, check_request, is_heavy, parse_json, parse_object, parsing
from shared.schema.bounds import MAX_CONTAINERS, MAX_VALUES, UNCOUNTED, Census
from shared.schema.messages import MAX_PARTS
from shared.schema.request import MAX_BIASES, MAX_MESSAGES

USER = {"role": "user", "content": "Hi"}
PART = {"type": "text", "text": "Hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
NAMED = {"type": "function", "function": {"name": "f"}}

MANY = 1_000_000
FLOODS: dict[str, bytes] = {
    "empty lists": b"[" + b"[]," * MANY + b"[]]",
    "empty objects": b'{"a":[' + b"{}," * MANY + b"{}]}",
    "numbers": b"[" + b"1," * MANY + b"1]",
    "texts": b"[" + b'"",' * MANY + b'""]',
    "escaped texts": b"[" + b'"\\\\",' * MANY + b'"\\""]',
    "members": b'{"":1,' + b'"":1,' * MANY + b'"":1}',
    "behind a long text": b'["' + b'x\\"[' * MANY + b'",' + b"[]," * MAX_CONTAINERS + b"[]]",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_values_is_refused_before_any_is_built(flood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing.orjson, "loads", lambda _: pytest.fail("it was parsed"), raising=True)
    with pytest.raises(InvalidRequest, match="more than") as refused:
        parse_json(FLOODS[flood])
    assert refused.value.code == "invalid_json"


def test_what_stands_in_texts_does_not_count() -> None:
    text = '[{,"\\' * MAX_VALUES
    assert parse_json(orjson.dumps({"a": text})) == {"a": text}


def test_bounds_are_exact() -> None:
    pad = b'"' + b"x" * UNCOUNTED + b'"'
    assert parse_json(b"[" + b"[]," * (MAX_CONTAINERS - 1) + pad + b"]")
    with pytest.raises(InvalidRequest):
        parse_json(b"[" + b"[]," * MAX_CONTAINERS + pad + b"]")
    assert parse_json(b"[" + b"1," * (MAX_VALUES - 1) + pad + b"]")
    with pytest.raises(InvalidRequest):
        parse_json(b"[" + b"1," * MAX_VALUES + pad + b"]")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('"\\[]{},:a\n😀'), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('"\\[,a', max_size=3), inner, max_size=4),
    max_leaves=30,
)


@given(value=json_values, window=st.integers(1, 9), ascii_only=st.booleans())
def test_the_census_counts_as_a_parser_does(value: Any, window: int, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    census = Census()
    for start in range(0, len(body), window):
        census.look(body[start : start + window])
    assert (census.containers, census.separators) == (containers_of(value), separators_of(value))
    assert not census.in_string


def containers_of(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + sum(map(containers_of, inner)) if isinstance(inner, list) else 0


def separators_of(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value
    return max(len(inner) - 1, 0) + sum(map(separators_of, inner)) if isinstance(inner, list) else 0


def request(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **fields}


COUNTED: list[tuple[dict[str, Any], str]] = [
    ({"messages": [USER] * (MAX_MESSAGES + 1)}, "messages"),
    ({"messages": [{"role": "user", "content": [PART] * (MAX_PARTS + 1)}]}, "messages[0].content"),
    ({"messages": [{"role": "assistant", "tool_calls": [CALL] * (MAX_PARTS + 1)}]}, "messages[0].tool_calls"),
    ({"logit_bias": {str(token): 1 for token in range(MAX_BIASES + 1)}}, "logit_bias"),
    ({"metadata": {str(key): "x" for key in range(17)}}, "metadata"),
    ({"modalities": ["text"] * 3}, "modalities"),
    (
        {
            "tools": [NAMED],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED] * 129}},
        },
        "tool_choice.allowed_tools.tools",
    ),
]


@pytest.mark.parametrize(("fields", "param"), COUNTED, ids=[param for _, param in COUNTED])
def test_lists_and_objects_have_a_greatest_length(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_request(parse_object(orjson.dumps(request(**fields))))
    assert refused.value.param == param


WRONG: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{}] * 1000},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}] * 1000}]},
    "calls": {"messages": [{"role": "assistant", "tool_calls": [{}] * 1000}]},
    "tools": {"tools": [{}] * 100},
    "functions": {"functions": [{}] * 100},
    "stop": {"stop": [1] * 1000},
    "modalities": {"modalities": ["x"] * 1000},
    "metadata": {"metadata": {str(key): 1 for key in range(1000)}},
    "logit_bias": {"logit_bias": {str(key): "x" for key in range(MAX_BIASES + 1)}},
}


@pytest.mark.parametrize("kind", WRONG)
def test_validation_stops_at_the_first_error_of_a_kind(kind: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        ChatCompletionRequest.model_validate(request(**WRONG[kind]))
    assert wrong.value.error_count() <= 2


@pytest.mark.parametrize(
    ("body", "heavy"),
    [
        (b"{" * UNCOUNTED, False),
        (b"x" * 256 * 1024, False),
        (b"x" * 256 * 1024 + b"x", True),
        (b"[]" * UNCOUNTED, True),
    ],
)
async def test_large_bodies_are_checked_beside_the_event_loop(body: bytes, heavy: bool) -> None:
    checks = LargeRequestChecks()
    try:
        assert is_heavy(body) is heavy
        assert (await checks.run(body, threading.get_ident) != threading.get_ident()) is heavy
        with pytest.raises(InvalidRequest):
            await checks.run(body, lambda: check_request(parse_object(body)))
    finally:
        checks.close()


async def test_large_bodies_are_checked_one_at_a_time() -> None:
    checks, body, at_once, most = LargeRequestChecks(), bytes(300_000), 0, 0

    def check() -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        sum(range(10_000))
        at_once -= 1

    try:
        await asyncio.gather(*(checks.run(body, check) for _ in range(20)))
        assert most == 1
    finally:
        checks.close()
