"""Parses a file's expiry from a form or from JSON. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from shared.errors import InvalidRequest
from shared.schema import parse_json

EXPIRY = (3600, 30 * 86400)
"""The least and the most seconds, as in OpenAI's API."""

FIELD = re.compile(r"expires_after(?:\[(anchor|seconds)\]|\.(anchor|seconds))")
WHOLE = "expires_after"


def form_expiry(fields: Mapping[str, str]) -> int | None:
    """Returns the seconds from a file's creation to its expiry, None if the form has no expiry. Accepts
    `expires_after[seconds]` with `expires_after[anchor]`, as OpenAI's SDKs send it, the same with a dot, and
    `expires_after` with JSON or a number of seconds. Raises InvalidRequest.
    """
    found: dict[str, object] = {}
    for name, text in fields.items():
        given = members(text) if name == WHOLE else member(name, text)
        if twice := found.keys() & given.keys():
            param = f"{WHOLE}.{min(twice)}"
            raise InvalidRequest(f"Invalid value for '{param}': it is set twice.", param=param)
        found |= given
    return checked_expiry(WHOLE, found) if found else None


def member(name: str, text: str) -> dict[str, object]:
    found = FIELD.fullmatch(name)
    return {} if found is None else {found[1] or found[2]: text}


def members(text: str) -> dict[str, object]:
    try:
        value: object = parse_json(text.encode())
    except InvalidRequest:
        value = None
    if isinstance(value, int) and not isinstance(value, bool):
        return {"anchor": "created_at", "seconds": value}
    if not isinstance(value, dict) or not value:
        expected = 'expected {"anchor": "created_at", "seconds": N}'
        raise InvalidRequest(f"Invalid value for '{WHOLE}': {expected}.", param=WHOLE)
    return cast(dict[str, object], value)


def checked_expiry(param: str, given: Mapping[str, Any]) -> int:
    """Returns the seconds of an expiry. `param`: its field in the request. Raises InvalidRequest."""
    for name in given.keys() - {"anchor", "seconds"}:
        field = f"{param}.{name[:100]}"
        raise InvalidRequest(f"Unknown parameter: '{field}'.", param=field, code="unknown_parameter")
    if given.get("anchor") != "created_at":
        raise InvalidRequest(f"Invalid value for '{param}.anchor': expected 'created_at'.", param=f"{param}.anchor")
    least, most = EXPIRY
    seconds = str(given.get("seconds"))
    if not re.fullmatch("[0-9]{1,9}", seconds) or not least <= int(seconds) <= most:
        expected = f"expected seconds, from {least} to {most}"
        raise InvalidRequest(f"Invalid value for '{param}.seconds': {expected}.", param=f"{param}.seconds")
    return int(seconds)
