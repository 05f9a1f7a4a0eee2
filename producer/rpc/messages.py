"""Converts between JSON and the messages of model_service.proto, exactly in both directions. Pure.

protobuf's own mapping (`json_format`) is not used: it writes 64-bit integers as strings, and reads a chunk ten times
slower than the messages' constructors, which are in C.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from shared.errors import EngineError, InvalidRequest
from shared.proto.dodil.ignite.v1.model_service_pb2 import (
    DESCRIPTOR,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatCompletionResponse,
)

M = TypeVar("M", ChatCompletionChunk, ChatCompletionResponse)
Shape = dict[str, "Shape | None"]

EXACT = 2.0**53
"""A double represents all integers up to here exactly."""

EXTRA_FIELDS = "extra_fields"
EXTRAS = ("extra_body", EXTRA_FIELDS)
"""The message fields that contain fields outside of the schema."""


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def body_of(request: ChatCompletionRequest) -> dict[str, Any]:
    """Returns the equivalent HTTP body. Raises InvalidRequest for values that JSON cannot express."""
    return object_of(request, "")


def object_of(message: Message, path: str) -> dict[str, Any]:
    """Returns the fields that are set. Merges those in `extra_body` and `extra_fields` into the object."""
    fields = {field.name: field_of(field, value, path) for field, value in message.ListFields()}
    for name in EXTRAS:
        if name in fields:
            join(fields, fields.pop(name), below(path, name))
    return fields


def join(fields: dict[str, Any], extra: Mapping[str, Any], path: str) -> None:
    if (twice := next((name for name in extra if name in fields), None)) is not None:
        param = below(path, twice)
        raise InvalidRequest(f"Invalid value for '{param}': the message has this field as well; set one.", param=param)
    fields.update(extra)


def field_of(field: FieldDescriptor, value: Any, path: str) -> Any:
    path = below(path, field.name)
    if is_map(field):
        return {key: plain(item, below(path, key)) for key, item in sorted(value.items())}
    if field.is_repeated:
        return [plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    return plain(value, path)


def plain(value: Any, path: str) -> Any:
    match value:
        case float():
            return number(value, path)
        case Value():
            return plain_value(value, path)
        case Struct():
            return in_order({key: plain_value(item, below(path, key)) for key, item in value.fields.items()})
        case ListValue():
            return [plain_value(item, f"{path}[{index}]") for index, item in enumerate(value.values)]
        case Message():
            return object_of(value, path)
        case _:
            return value


def plain_value(value: Value, path: str) -> Any:
    kind = value.WhichOneof("kind")
    return None if kind is None or kind == "null_value" else plain(getattr(value, kind), path)


def in_order(fields: dict[str, Any]) -> dict[str, Any]:
    """Sorts the names of an object; a schema's properties begin with those in `required`, in that order.

    protobuf's maps have no order, and their iteration differs between processes. Equal requests must be equal to an
    engine, which generates properties in the schema's order.
    """
    properties, required = fields.get("properties"), fields.get("required")
    if isinstance(properties, dict) and isinstance(required, list):
        of_schema = cast(dict[str, Any], properties)
        listed = [name for name in cast(list[Any], required) if isinstance(name, str) and name in of_schema]
        fields["properties"] = {name: of_schema[name] for name in dict.fromkeys((*listed, *of_schema))}
    return {name: fields[name] for name in sorted(fields)}


def number(value: float, path: str) -> int | float:
    """Returns whole numbers as integers: a Value's numbers are doubles, and engines need `top_k` as 40, not 40.0."""
    if not math.isfinite(value):
        raise InvalidRequest(f"Invalid value for '{path}': expected a finite number, not {value}.", param=path)
    return int(value) if value.is_integer() and abs(value) <= EXACT else value


def below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def completion_of(result: bytes) -> ChatCompletionResponse:
    """Returns a completion's message. Raises EngineError if the engine's answer does not have OpenAI's format."""
    return build(ChatCompletionResponse, orjson.loads(result))


def chunk_of(data: bytes) -> ChatCompletionChunk:
    """Returns the message of one frame's JSON. Raises EngineError, as `completion_of` does."""
    return build(ChatCompletionChunk, orjson.loads(data))


def build(kind: type[M], value: dict[str, Any]) -> M:
    try:
        return kind(**value)
    except (ValueError, TypeError, AttributeError):  # Slower, and few answers need it.
        return build_with_extras(kind, value)


def build_with_extras(kind: type[M], value: Mapping[str, Any]) -> M:
    try:
        return kind(**with_extras(value, SHAPES[kind.__name__]))
    except (ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"The engine's answer does not have OpenAI's format: {error}") from error


def with_extras(value: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Moves the fields outside of the schema into `extra_fields`."""
    known: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, item in value.items():
        if item is None:
            continue
        if name not in shape:
            extra[name] = item
        elif (inner := shape[name]) is None:
            known[name] = item
        elif isinstance(item, list):
            known[name] = [with_extras(each, inner) for each in cast(list[dict[str, Any]], item)]
        else:
            known[name] = with_extras(item, inner)
    return known | {EXTRA_FIELDS: extra} if extra else known


def shape_of(fields: Iterable[FieldDescriptor]) -> Shape:
    """Returns a message's field names, each with the fields of its own message type, if that is one of this schema."""
    return {field.name: inner_shape(field) for field in fields}


def inner_shape(field: FieldDescriptor) -> Shape | None:
    kind = field.message_type
    ours = kind is not None and kind.file.name == DESCRIPTOR.name and not is_map(field)
    return shape_of(kind.fields) if kind is not None and ours else None


SHAPES: Mapping[str, Shape] = {
    name: shape_of(message.fields) for name, message in DESCRIPTOR.message_types_by_name.items()
}
