"""Decodes JSON as servers write it: fast for strict JSON, leniently for the rest."""

from __future__ import annotations

import json
import math
import re
from typing import Any, cast

import orjson

INT64 = range(-(2**63), 2**64)
"""The integers that orjson can encode."""

DEEPEST = 200
"""Levels of nested objects and lists that orjson can encode."""

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


class NotJson(ValueError):
    """The text is not JSON, even if it is decoded leniently."""


def decode(data: bytes) -> tuple[list[Any], bool]:
    """Returns the values in `data`, and whether they are strict JSON.

    There are several values if a server has left out a separator. Values that are not strict JSON may contain lone
    surrogates, which a later chunk may complete; `scrubbed` replaces them. NaN and the infinities become None. Raises
    NotJson.
    """
    try:
        return [orjson.loads(data)], True
    except orjson.JSONDecodeError:
        return _decode_leniently(data.decode("utf-8-sig", "replace").strip()), False


def is_strict(data: bytes) -> bool:
    """Whether `data` is one complete JSON value."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def is_readable(data: bytes) -> bool:
    """Whether `decode` accepts `data`."""
    try:
        decode(data)
    except NotJson:
        return False
    return True


def is_shallow(data: bytes, values: list[Any]) -> bool:
    """Whether `values`, decoded from `data`, have few enough levels to be encoded again."""
    return data.count(b"[") + data.count(b"{") <= DEEPEST or _has_levels(values, DEEPEST)


def scrubbed(value: Any) -> Any:
    """Returns `value` with every lone surrogate replaced, so that it can be encoded."""
    match value:
        case str():
            return LONE_SURROGATE.sub(REPLACEMENT, value)
        case dict():
            return {scrubbed(key): scrubbed(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list():
            return [scrubbed(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def _decode_leniently(text: str) -> list[Any]:
    values: list[Any] = []
    at = 0
    try:
        while at < len(text):
            value, at = _DECODER.raw_decode(text, at)
            values.append(value)
            while at < len(text) and text[at].isspace():
                at += 1
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error
    return values


def _has_levels(value: Any, levels: int) -> bool:
    """Whether `value` has at most this many levels."""
    if not isinstance(value, (dict, list)):
        return True
    inner = cast(dict[str, Any], value).values() if isinstance(value, dict) else cast(list[Any], value)
    return levels > 0 and all(_has_levels(item, levels - 1) for item in inner)


def _integer(digits: str) -> int | float | None:
    if len(digits) > 20:
        return _number(digits)
    value = int(digits)
    return value if value in INT64 else float(value)


def _number(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def _no_number(name: str) -> None:
    """Returns None for NaN and the infinities, which JSON cannot express."""


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=_no_number, strict=False)
