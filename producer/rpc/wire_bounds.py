"""Census a protobuf message's values in its bytes, before it is decoded, and refuses too many. Pure.

As `shared.schema.bounds` does for JSON: two bytes of a message take a hundred bytes as an object, and thousands as a
Python dictionary. Only field headers are read, so a long text costs no more than a short one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from shared.errors import InvalidRequest
from shared.schema import HEAVY_BYTES, MAX_CONTAINERS, MAX_VALUES, UNCOUNTED

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}
VALUE = "google.protobuf.Value"

LIGHT_VALUES = 5_000
"""Messages with more values than this are read in a thread."""


class MalformedMessage(Exception):
    """The bytes end too early, or contain an unsupported wire type."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A message type. `inner`: the type names of its message fields, by field number; `container`: whether it is a list
    or an object in JSON, and not a value or a map's entry.
    """

    inner: Mapping[int, str]
    container: bool


@dataclass(slots=True)
class Census:
    containers: int = 0
    values: int = 0

    @property
    def excess(self) -> str | None:
        if self.containers > MAX_CONTAINERS:
            return f"more than {MAX_CONTAINERS:,} lists and objects"
        if self.values > MAX_VALUES:
            return f"more than {MAX_VALUES:,} values"
        return None


class MessageBounds:
    """Census the values of messages of one type."""

    def __init__(self, message: Any) -> None:
        """`message`: its descriptor."""
        self._root = message.full_name
        self._kinds: dict[str, Kind] = {}
        self._note(message)

    def _note(self, message: Any) -> None:
        if message.full_name in self._kinds:
            return
        fields = [field for field in message.fields if field.message_type is not None]
        inner = {field.number: field.message_type.full_name for field in fields}
        entry = message.GetOptions().map_entry
        self._kinds[message.full_name] = Kind(inner, container=not entry and message.full_name != VALUE)
        for field in fields:
            self._note(field.message_type)

    def is_heavy(self, data: bytes) -> bool:
        """Whether reading the message takes so long that it must not run on the event loop."""
        if len(data) > HEAVY_BYTES:
            return True
        census = Census()
        with suppress(MalformedMessage, IndexError):
            self._count(data, census, LIGHT_VALUES)
        return census.values > LIGHT_VALUES

    def refuse_excess(self, data: bytes) -> None:
        """Raises InvalidRequest if the message has too many values, or contains groups, which cannot be counted:
        protobuf's parser would skip them and continue.
        """
        if len(data) <= UNCOUNTED:
            return
        census = Census()
        try:
            self._count(data, census, MAX_VALUES)
        except (MalformedMessage, IndexError):
            raise InvalidRequest("The message is not a ChatCompletionRequest.") from None
        if census.excess is not None:
            raise InvalidRequest(f"The message has {census.excess}.")

    def _count(self, data: bytes, census: Census, most: int) -> None:
        """Adds the message's values to `census`; stops above `most`."""
        at, kind = 0, self._kinds[self._root]
        outer: list[tuple[int, Kind]] = []
        end = len(data)
        while True:
            while at >= end:
                if not outer:
                    return
                end, kind = outer.pop()
            tag, at = varint(data, at)
            census.values += 1
            if tag & 7 != DELIMITED:
                at = after_scalar(data, at, tag & 7)
            else:
                size, at = varint(data, at)
                name = kind.inner.get(tag >> 3)
                if name is None:
                    at += size
                else:
                    outer.append((end, kind))
                    end, kind = min(end, at + size), self._kinds[name]
                    census.containers += kind.container
            if census.values > most or census.containers > MAX_CONTAINERS:
                return


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the number that begins at `at`, and the position after it."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    number, shift = byte & 0x7F, 7
    while byte >= 0x80:
        at += 1
        byte = data[at]
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > 70:
            raise MalformedMessage
    return number, at + 1


def after_scalar(data: bytes, at: int, wire_type: int) -> int:
    if wire_type == VARINT:
        return varint(data, at)[1]
    if wire_type not in FIXED:
        raise MalformedMessage
    return at + FIXED[wire_type]
