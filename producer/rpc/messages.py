"""Between JSON and the messages of model_service.proto, exact both ways. Pure.

protobuf's own mapping (`json_format`) is not used: it writes whole 64-bit numbers as strings, and takes ten times as
long to read a chunk as the messages' constructors, which are in C.
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
"""Whole numbers up to here are the same as a double and as an integer."""

EXTRA_FIELDS = "extra_fields"
EXTRAS = ("extra_body", EXTRA_FIELDS)
"""Where messages keep fields that the schema does not name."""


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def body_of(request: ChatCompletionRequest) -> dict[str, Any]:
    """What the client would have sent over HTTP. Raises InvalidRequest for what JSON cannot say."""
    return object_of(request, "")


def object_of(message: Message, path: str) -> dict[str, Any]:
    """Only what is set; the fields in `extra_body` and `extra_fields` stand beside the others."""
    fields = {field.name: field_of(field, value, path) for field, value in message.ListFields()}
    for name in EXTRAS:
        if name in fields:
            join(fields, fields.pop(name), below(path, name))
    return fields


def join(fields: dict[str, Any], extra: Mapping[str, Any], path: str) -> None:
    if (twice := next((name for name in extra if name in fields), None)) is not None:
        param = below(path, twice)
        raise InvalidRequest(f"Invalid value for '{param}': the field is set beside it, too.", param=param)
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
    """A map of protobuf has no order, and what comes out of one differs between processes. So that the same request is
    the same to an engine (the order of a schema's properties is the order in which it makes them), names are sorted,
    and a schema's properties begin with those that `required` lists, in its order.
    """
    properties, required = fields.get("properties"), fields.get("required")
    if isinstance(properties, dict) and isinstance(required, list):
        of_schema = cast(dict[str, Any], properties)
        listed = [name for name in cast(list[Any], required) if isinstance(name, str) and name in of_schema]
        fields["properties"] = {name: of_schema[name] for name in dict.fromkeys((*listed, *of_schema))}
    return {name: fields[name] for name in sorted(fields)}


def number(value: float, path: str) -> int | float:
    """Whole ones without a point: every number of a Value is a double, and engines want `top_k` to be 40, not 40.0."""
    if not math.isfinite(value):
        raise InvalidRequest(f"Invalid value for '{path}': JSON has no number {value}.", param=path)
    return int(value) if value.is_integer() and abs(value) <= EXACT else value


def below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def completion_of(result: bytes) -> ChatCompletionResponse:
    """Raises EngineError if the engine's answer is of another shape than OpenAI's."""
    return build(ChatCompletionResponse, orjson.loads(result))


def chunk_of(data: bytes) -> ChatCompletionChunk:
    """As `completion_of`, for the JSON of one frame."""
    return build(ChatCompletionChunk, orjson.loads(data))


def build(kind: type[M], value: dict[str, Any]) -> M:
    try:
        return kind(**value)
    except (ValueError, TypeError, AttributeError):  # The second look costs more, and few answers need it.
        return build_sifted(kind, value)


def build_sifted(kind: type[M], value: Mapping[str, Any]) -> M:
    try:
        return kind(**sifted(value, SHAPES[kind.__name__]))
    except (ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"The engine's answer has another shape than OpenAI's: {error}") from error


def sifted(value: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """What the schema names in its place, and everything else in `extra_fields`."""
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
            known[name] = [sifted(each, inner) for each in cast(list[dict[str, Any]], item)]
        else:
            known[name] = sifted(item, inner)
    return known | {EXTRA_FIELDS: extra} if extra else known


def shape_of(fields: Iterable[FieldDescriptor]) -> Shape:
    """The names of a message's fields, each with the shape of what is in it where that is a message of ours."""
    return {field.name: inner_shape(field) for field in fields}


def inner_shape(field: FieldDescriptor) -> Shape | None:
    kind = field.message_type
    ours = kind is not None and kind.file.name == DESCRIPTOR.name and not is_map(field)
    return shape_of(kind.fields) if kind is not None and ours else None


SHAPES: Mapping[str, Shape] = {
    name: shape_of(message.fields) for name, message in DESCRIPTOR.message_types_by_name.items()
}
