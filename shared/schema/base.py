"""What every part of a request's check shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

QUOTED = 100
"""Characters."""

NAME = r"^[a-zA-Z0-9_-]{1,64}$"
"""What OpenAI lets functions and response formats be called."""

TEXT, LIST, OBJECT = "<text>", "<list>", "<object>"
"""The branches of fields that may be one thing or another; no field is called so."""


def at_most(members: int) -> BeforeValidator:
    """On an object that may have any keys: how many, counted before they are looked at."""
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
    """No coercion: OpenAI answers 400 to a number in quotes. Fields that nobody here knows are kept."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


def text_or_list(value: object) -> str | None:
    """The branch of a field that is either a string or a list."""
    if isinstance(value, str):
        return TEXT
    return LIST if isinstance(value, list) else None


def text_or_object(value: object) -> str | None:
    """The branch of a field that is either a string or an object."""
    if isinstance(value, str):
        return TEXT
    return OBJECT if isinstance(value, dict) else None


def invalid(param: str, reason: str) -> str:
    return f"Invalid value for '{param}': {reason}."


def missing(param: str) -> str:
    return f"Missing required parameter: '{param}'."


def short(text: str) -> str:
    """What a client sent, for an answer that quotes it: megabytes do not come back."""
    return text if len(text) <= QUOTED else text[: QUOTED - 1] + "…"
