"""What a call's headers ask for: the body's type, preferences, deadlines."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request

from shared.errors import InvalidRequest, UnsupportedMediaType
from shared.schema import MAX_DEADLINE

SDK_TIMEOUTS = ("x-stainless-read-timeout", "x-stainless-timeout")

JSON_TYPES = re.compile(r"application/(.*\+)?json", re.IGNORECASE)


async def json_body(request: Request) -> bytes:
    """Returns the body. Raises UnsupportedMediaType where it is announced as anything but JSON."""
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if not JSON_TYPES.fullmatch(content_type):
        raise UnsupportedMediaType(f"The content type {content_type!r} is not supported; send application/json.")
    return await request.body()


def header_deadline(headers: Mapping[str, str]) -> float | None:
    """Returns the seconds in Cancel-After, or None without that header. Raises InvalidRequest."""
    if (value := headers.get("cancel-after")) is None:
        return None
    seconds = positive_number(value)
    if seconds is None or seconds > MAX_DEADLINE:
        message = f"Invalid value for 'Cancel-After': expected seconds, above 0 and at most {MAX_DEADLINE:,.0f}."
        raise InvalidRequest(message, param="Cancel-After")
    return seconds


def sdk_patience(headers: Mapping[str, str]) -> float | None:
    """Returns the seconds after which OpenAI's Python or Node SDK stops waiting for data, if a header gives them."""
    stated = (positive_number(headers.get(name, "")) for name in SDK_TIMEOUTS)
    seconds = next((value for value in stated if value), None)
    return seconds and min(seconds, MAX_DEADLINE)


def positive_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


@dataclass(frozen=True, slots=True)
class Preferences:
    """The supported preferences of RFC 7240's `Prefer`. `wait` in seconds."""

    respond_async: bool = False
    wait: float | None = None

    @classmethod
    def from_header(cls, header: str) -> Preferences:
        parts = [part.strip().lower() for part in header.split(",")]
        waits = (positive_number(part.removeprefix("wait=")) for part in parts if part.startswith("wait="))
        wait = next(waits, None)
        return cls("respond-async" in parts or wait is not None, wait)

    @property
    def applied(self) -> str:
        return "respond-async" if self.respond_async else ""
