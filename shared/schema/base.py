"""Shared parts of the request models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

QUOTED = 100
"""Most characters of a client's text that an error quotes."""

NAME = r"^[a-zA-Z0-9_-]{1,64}$"
"""OpenAI's rule for names of functions and response formats."""

TEXT, LIST, OBJECT = "<text>", "<list>", "<object>"
TOKENS, LISTS = "<tokens>", "<lists>"
"""Tags of the branches of union fields. No field has such a name."""


def at_most(members: int) -> BeforeValidator:
    """Limits the number of members of an object with free keys, before they are validated."""
    return BeforeValidator(counted(members))


def counted(members: int) -> Callable[[object], object]:
    def check(value: object) -> object:
        if isinstance(value, dict) and len(cast(dict[Any, Any], value)) > members:
            raise PydanticCustomError(
                "too_many_members", "Expected an object of at most {members} members", {"members": members}
            )
        return cast(object, value)

    return check


class Strict(BaseModel):
    """Does not convert types: OpenAI answers 400 to a number in quotes. Unknown fields are kept."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


def text_or_list(value: object) -> str | None:
    """Returns the branch of a field that is a string or a list."""
    if isinstance(value, str):
        return TEXT
    return LIST if isinstance(value, list) else None


def text_or_object(value: object) -> str | None:
    """Returns the branch of a field that is a string or an object."""
    if isinstance(value, str):
        return TEXT
    return OBJECT if isinstance(value, dict) else None


def invalid(param: str, reason: str) -> str:
    return f"Invalid value for '{param}': {reason}."


def missing(param: str) -> str:
    return f"Missing required parameter: '{param}'."


def short(text: str) -> str:
    """Shortens a client's text to QUOTED characters, for an error that quotes it."""
    return text if len(text) <= QUOTED else text[: QUOTED - 1] + "…"
