"""Parses and checks a request. An error names the first field to change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import orjson
from pydantic import ValidationError

from shared.errors import InvalidRequest
from shared.schema.base import LIST, LISTS, OBJECT, TEXT, TOKENS, invalid, missing, short
from shared.schema.bounds import refuse_excess
from shared.schema.calls import CALL_REQUESTS, CallApi, CallRequest
from shared.schema.request import ChatCompletionRequest, MetadataUpdate

MAX_NESTING = 100
"""Most levels of JSON. Below the limits of engines' encoders (orjson: 254), and above what requests need."""

NO_FIELDS = frozenset({TEXT, LIST, LISTS, OBJECT, TOKENS, "[key]"})
"""Steps of pydantic's error paths that are not fields: branches of unions, and the mark of an object's key."""

SINGLE = frozenset({"content", "approximate"})
"""Types of objects outside of unions. For all other types, pydantic's error paths have a step with the type."""

EXPECTED = {
    "bool_type": "a boolean",
    "dict_type": "an object",
    "float_type": "a number",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "list_type": "an array",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "string_type": "a string",
}
"""JSON's names of the types that pydantic names in Python."""

FOUND: Mapping[type, str] = {
    bool: "a boolean",
    dict: "an object",
    float: "a decimal number",
    int: "an integer",
    list: "an array",
    str: "a string",
    type(None): "null",
}


def parse_json(body: bytes) -> Any:
    """Parses JSON. Raises InvalidRequest (`invalid_json`), also for NaN, lone surrogates, too deep nesting, and for too
    many values, which are counted before parsing.
    """
    if not body:
        raise InvalidRequest("The request body is empty; expected a JSON object.", code="invalid_json")
    refuse_excess(body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}.", code="invalid_json") from None
    if body.count(b"[") + body.count(b"{") > MAX_NESTING and nesting(value) > MAX_NESTING:
        raise InvalidRequest(f"The request body nests deeper than {MAX_NESTING} levels.", code="invalid_json")
    return value


def nesting(value: Any) -> int:
    """Returns the number of levels of lists and objects in a JSON value."""
    depth, level = 0, containers([value])
    while level:
        depth += 1
        level = [inner for container in level for inner in containers(container)]
    return depth


def containers(values: Iterable[Any]) -> list[Iterable[Any]]:
    """Returns the lists among `values`, and the members of the objects among them."""
    objects = [cast(dict[str, Any], value).values() for value in values if isinstance(value, dict)]
    return [*objects, *(cast(list[Any], value) for value in values if isinstance(value, list))]


def parse_object(body: bytes) -> dict[str, Any]:
    """Parses a JSON object. Raises InvalidRequest."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise InvalidRequest("The request body is not a JSON object.", code="invalid_json")
    return cast(dict[str, Any], value)


def parse_metadata(body: bytes) -> dict[str, str]:
    """Parses and checks a MetadataUpdate, and returns its metadata. Raises InvalidRequest."""
    value = parse_json(body)
    try:
        return MetadataUpdate.model_validate(value).metadata or {}
    except ValidationError as error:
        raise first_error(error, value) from None


def check_request(value: dict[str, Any], *, stream: bool | None = None) -> ChatCompletionRequest:
    """Checks a parsed body. `stream`: set if the URL's path decides it.

    Raises InvalidRequest; `param` is the path of the first bad field.
    """
    try:
        request = ChatCompletionRequest.model_validate(value)
    except ValidationError as error:
        raise first_error(error, value) from None
    streams = request.stream if stream is None else stream
    if request.stream_options is not None and not streams:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    return request


def check_call(value: dict[str, Any], api: CallApi) -> CallRequest:
    """Checks the parsed body of an endpoint other than chat. Raises InvalidRequest."""
    try:
        return CALL_REQUESTS[api].model_validate(value)
    except ValidationError as error:
        raise first_error(error, value) from None


def first_error(error: ValidationError, value: Any) -> InvalidRequest:
    """Translates pydantic's first error."""
    problem = error.errors(include_url=False)[0]
    param, context = field_path(problem["loc"], value), problem.get("ctx", {})
    if "discriminator" in context:
        param = f"{param}.{context['discriminator'].strip(chr(39))}"
    match problem["type"]:
        case "missing" | "union_tag_not_found":
            return InvalidRequest(missing(param), param=param)
        case "extra_forbidden":
            return InvalidRequest(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
        case kind if kind in EXPECTED:
            found = FOUND.get(type(cast(object, problem["input"])), "another type")
            wrong = f"Invalid type for '{param}': expected {EXPECTED[kind]}, but got {found} instead."
            return InvalidRequest(wrong, param=param)
        case "union_tag_invalid":
            reason = f"{short(context['tag'])!r} is not one of {context['expected_tags']}"
        case _:
            reason = problem["msg"][0].lower() + problem["msg"][1:]
    return InvalidRequest(invalid(param, reason), param=param)


def field_path(location: Sequence[str | int], value: Any) -> str:
    """Returns the field's path in OpenAI's notation, `messages[0].content`, from pydantic's error path."""
    path, entered = "", False
    steps = [step for step in location if step not in NO_FIELDS]
    for position, step in enumerate(steps):
        last = position == len(steps) - 1
        if not entered and names_shape(step, value):
            entered = True
            continue
        if isinstance(step, int) and isinstance(value, list):
            path += f"[{step}]"
            value = cast(list[Any], value)[step]
        elif isinstance(value, dict) and (step in value or last):
            path += f".{short(str(step))}" if path else str(step)
            value = cast(dict[Any, Any], value).get(step)
        entered = False
    return path


def names_shape(step: str | int, value: Any) -> bool:
    """Whether a step is the type or role of the object that the path has reached."""
    if not isinstance(value, dict) or step in SINGLE:
        return False
    shaped = cast(dict[str, Any], value)
    return step in (shaped.get("type"), shaped.get("role"))
