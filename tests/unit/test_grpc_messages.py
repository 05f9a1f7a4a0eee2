"""JSON and the messages of model_service.proto: nothing is lost on the way in, and nothing on the way out."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.rpc.messages import body_of, chunk_of, completion_of
from shared.errors import EngineError, InvalidRequest
from shared.proto.dodil.ignite.v1.model_service_pb2 import (
    DESCRIPTOR,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatCompletionResponse,
)
from shared.schema import ChatCompletionRequest as Request

EXACT = 2**53
TEXTS = st.text(max_size=20)
NUMBERS = st.integers(-EXACT, EXACT) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
SCALARS = {
    FieldDescriptor.CPPTYPE_STRING: TEXTS,
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
}
EXTRAS = ("extra_body", "extra_fields")


def bodies(message: Descriptor) -> st.SearchStrategy[dict[str, Any]]:
    """Any JSON that fits the message, with nulls, empty lists and empty objects where JSON may have them."""
    fields = {field.name: st.none() | values_of(field) for field in message.fields if field.name not in EXTRAS}
    return st.fixed_dictionaries({}, optional=fields)


def values_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type and field.message_type.GetOptions().map_entry:
        return st.dictionaries(TEXTS, values_of(field.message_type.fields_by_name["value"]), max_size=3)
    one = value_of(field)
    return st.lists(one, max_size=3) if field.is_repeated else one


def value_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    match field.message_type and field.message_type.full_name:
        case None:
            return SCALARS[field.cpp_type]
        case "google.protobuf.Value":
            return VALUES
        case "google.protobuf.Struct":
            return st.dictionaries(TEXTS, VALUES, max_size=3)
        case _:
            return st.deferred(lambda: bodies(field.message_type))


def said(body: Mapping[str, Any], message: Descriptor) -> dict[str, Any]:
    """What a message can say of the JSON: a null is nothing, except as a Value, and so is a list without members."""
    return {name: inner for name, value in body.items() for inner in said_of(value, message.fields_by_name[name])}


def said_of(value: Any, field: FieldDescriptor) -> Iterator[Any]:
    kind = field.message_type
    if kind is not None and kind.full_name == "google.protobuf.Value":
        yield value
    elif value is None or (value in ([], {}) and (field.is_repeated)):
        return
    elif kind is None or kind.file.name != DESCRIPTOR.name or kind.GetOptions().map_entry:
        yield value
    elif field.is_repeated:
        yield [said(item, kind) for item in value]
    else:
        yield said(value, kind)


def sent(body: Mapping[str, Any] | str) -> ChatCompletionRequest:
    """As a reflection client reads the JSON and sends it."""
    text = body if isinstance(body, str) else orjson.dumps(body).decode()
    message = json_format.Parse(text, ChatCompletionRequest())
    return ChatCompletionRequest.FromString(message.SerializeToString())


# ── requests ──


@settings(max_examples=50)
@given(bodies(ChatCompletionRequest.DESCRIPTOR))
def test_a_request_comes_in_as_it_would_over_http(body: dict[str, Any]) -> None:
    assert body_of(sent(body)) == said(body, ChatCompletionRequest.DESCRIPTOR)


@settings(max_examples=50)
@given(st.integers(-(2**63), 2**63 - 1))
def test_a_seed_is_exact(seed: int) -> None:
    """As a number, and as the text that protobuf's own mapping writes."""
    for text in (f'{{"seed":{seed}}}', f'{{"seed":"{seed}"}}'):
        assert body_of(sent(text)) == {"seed": seed}


@settings(max_examples=50)
@given(st.integers(-EXACT, EXACT))
def test_whole_numbers_of_values_stay_whole(number: int) -> None:
    body = orjson.dumps(body_of(sent({"top_k": number, "response_format": {"minimum": [number]}})))
    assert orjson.loads(body) == {"top_k": number, "response_format": {"minimum": [number]}}
    assert b"." not in body


@settings(max_examples=50)
@given(st.dictionaries(TEXTS, VALUES, max_size=5))
def test_extra_fields_stand_beside_the_others(extra: dict[str, Any]) -> None:
    assert body_of(sent({"extra_body": extra})) == extra


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 1, "extra_body": {"n": 2}}, "extra_body.n"),
        ({"messages": [{"role": "user", "extra_fields": {"role": "system"}}]}, "messages[0].extra_fields.role"),
        ({"temperature": "Infinity"}, "temperature"),
        ({"logit_bias": {"7": "NaN"}}, "logit_bias.7"),
    ],
)
def test_what_json_cannot_say_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        body_of(sent(body))
    assert refusal.value.param == param


def test_a_value_without_a_kind_is_null() -> None:
    request = ChatCompletionRequest()
    request.stop.SetInParent()
    assert body_of(request) == {"stop": None}


# ── answers ──


@pytest.mark.parametrize(
    ("kind", "read"), [(ChatCompletionResponse, completion_of), (ChatCompletionChunk, chunk_of)], ids=["whole", "chunk"]
)
@settings(max_examples=50)
@given(data=st.data())
def test_an_answer_goes_out_as_it_does_over_http(kind: Any, read: Any, data: st.DataObject) -> None:
    answer = data.draw(bodies(kind.DESCRIPTOR))
    assert as_json(read(orjson.dumps(answer))) == said(answer, kind.DESCRIPTOR)


def as_json(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(type(message).FromString(message.SerializeToString()))


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["timings", "token_ids", "", "ü"]), VALUES), VALUES)
def test_what_the_schema_does_not_name_goes_along(extra: dict[str, Any], deep: Any) -> None:
    choice = {"index": 0, "delta": {"content": "x", "thought": deep}, "logprobs": None, "stop_reason": deep}
    chunk = as_json(chunk_of(orjson.dumps({"id": "x", "choices": [choice], **extra})))
    assert chunk.get("extra_fields", {}) == {name: value for name, value in extra.items() if value is not None}
    if deep is not None:
        (choice,) = chunk["choices"]
        assert choice["extra_fields"] == {"stop_reason": deep}
        assert choice["delta"] == {"content": "x", "extra_fields": {"thought": deep}}


@pytest.mark.parametrize(
    "answer",
    [{"choices": {"a": 1}}, {"choices": [7]}, {"created": "now"}, {"created": -1}, {"usage": []}, {"model": 7}, []],
    ids=str,
)
def test_an_answer_of_another_shape_is_the_engines_fault(answer: Any) -> None:
    with pytest.raises(EngineError):
        chunk_of(orjson.dumps(answer))


# ── the schema ──


def every_field() -> Iterator[FieldDescriptor]:
    return (field for message in DESCRIPTOR.message_types_by_name.values() for field in message.fields)


def test_every_json_name_is_the_fields_name() -> None:
    assert [field.full_name for field in every_field() if field.json_name != field.name] == []


def test_every_scalar_has_presence() -> None:
    scalars = [field for field in every_field() if field.message_type is None and not field.is_repeated]
    assert [field.full_name for field in scalars if not field.has_presence] == []


def test_the_schema_names_every_field_that_is_checked() -> None:
    assert set(Request.model_fields) <= set(ChatCompletionRequest.DESCRIPTOR.fields_by_name)


def test_created_is_a_number_in_json() -> None:
    """64 bits would be a text there."""
    assert as_json(completion_of(b'{"created":4102444800}')) == {"created": 4102444800}


# ── order ──

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["thought", "answer", "gone"],
    "properties": {
        "zeal": {"type": "string"},
        "answer": {"type": "object", "properties": {"b": {}, "a": {}, "c": {}}, "required": ["c", "a", "b"]},
        "thought": {"type": "string"},
        "mood": {"anyOf": [{"properties": {"y": {}, "x": {}}}, {"type": "null"}]},
    },
}


def in_places(schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Requests with the schema in each place that may have one, and how to find it there again."""
    yield (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        lambda body: body["response_format"]["json_schema"]["schema"],
    )
    yield (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]},
        lambda body: body["tools"][0]["function"]["parameters"],
    )
    yield {"functions": [{"name": "f", "parameters": schema}]}, lambda body: body["functions"][0]["parameters"]
    yield {"structured_outputs": {"json": schema}}, lambda body: body["structured_outputs"]["json"]
    yield {"extra_body": {"guided_json": schema}}, lambda body: body["guided_json"]


@pytest.mark.parametrize(("fields", "found"), list(in_places(SCHEMA)))
def test_a_schemas_properties_come_as_required_lists_them_and_the_rest_sorted(fields: Any, found: Any) -> None:
    schema = found(body_of(json_format.ParseDict(fields, ChatCompletionRequest())))
    assert schema == SCHEMA
    assert list(schema) == ["properties", "required", "type"]
    assert list(schema["properties"]) == ["thought", "answer", "mood", "zeal"]
    assert list(schema["properties"]["answer"]["properties"]) == ["c", "a", "b"]
    assert list(schema["properties"]["mood"]["anyOf"][0]["properties"]) == ["x", "y"]


@given(st.lists(TEXTS, unique=True, max_size=20), st.randoms(use_true_random=False))
def test_the_same_request_is_the_same_bytes(names: list[str], dice: Any) -> None:
    """Whatever order its maps were filled in."""

    def sent(order: list[str]) -> bytes:
        schema = {"properties": {name: {} for name in order}, "required": names[::2]}
        fields = {"metadata": dict.fromkeys(order, "x"), "extra_body": {"schema": schema}}
        return orjson.dumps(body_of(json_format.ParseDict(fields, ChatCompletionRequest())))

    shuffled = list(names)
    dice.shuffle(shuffled)
    assert sent(shuffled) == sent(names)


@pytest.mark.parametrize("required", [None, True, "a", [1, None, ["a"]], {"a": 1}, ["a", "a", "b"]])
def test_what_is_no_schema_is_left_as_it_is(required: Any) -> None:
    value = {"properties": {"b": 1, "a": 2}, "required": required}
    body = body_of(json_format.ParseDict({"extra_body": {"x": value}}, ChatCompletionRequest()))
    assert body["x"] == value
    assert list(body["x"]["properties"]) == ["a", "b"]
