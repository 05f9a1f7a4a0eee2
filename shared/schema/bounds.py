"""Bounds the number of values in a JSON body, before it is parsed. Pure functions.

The size of a body says little about the cost of parsing it: 18 MB of text are one string, 18 MB of `[],` are six
million lists. So the separators of values are counted, but not those inside strings.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import InvalidRequest

MAX_CONTAINERS = 25_000
"""Most lists and objects of a body. 2,048 messages with tool calls and 128 tools with schemas have half as many."""

MAX_VALUES = 200_000
"""Most values of a body, including lists and objects."""

UNCOUNTED = 16 * 1024
"""Bytes up to which a body is not counted."""

WINDOW = 64 * 1024
"""Bytes that are counted without interruption; other threads run between two windows."""

HEAVY_BYTES = 256 * 1024
HEAVY_CONTAINERS = 2_000
"""A body with more of either is checked in a thread, not in the event loop."""


@dataclass(slots=True)
class Census:
    """Counts containers and separators, window by window. `in_string`, `escaped`: the state at the last window's
    end.
    """

    containers: int = 0
    separators: int = 0
    in_string: bool = False
    escaped: bool = False

    @property
    def excess(self) -> str | None:
        if self.containers > MAX_CONTAINERS:
            return f"more than {MAX_CONTAINERS:,} lists and objects"
        if self.containers + self.separators > MAX_VALUES:
            return f"more than {MAX_VALUES:,} values"
        return None

    def look(self, window: bytes) -> None:
        if self.escaped:
            window = window[1:]
        # Without pairs of backslashes, each remaining one escapes the next character.
        window = window.replace(b"\\\\", b"")
        self.escaped = window.endswith(b"\\")
        pieces = window.replace(b'\\"', b"").split(b'"')
        outside = b"".join(pieces[self.in_string :: 2])
        self.in_string ^= len(pieces) % 2 == 0
        self.containers += outside.count(b"[") + outside.count(b"{")
        self.separators += outside.count(b",")


def containers_at_most(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")


def is_heavy(body: bytes) -> bool:
    """Whether checking the body would block the event loop for too long."""
    if len(body) <= UNCOUNTED:
        return False
    return len(body) > HEAVY_BYTES or containers_at_most(body) > HEAVY_CONTAINERS


def refuse_excess(body: bytes) -> None:
    """Raises InvalidRequest if a body has too many values. Invalid JSON is left to the parser, which cannot build more
    values than were counted.
    """
    if len(body) <= UNCOUNTED:
        return
    containers = containers_at_most(body)
    if containers <= MAX_CONTAINERS and containers + body.count(b",") <= MAX_VALUES:
        return
    census = Census()
    for start in range(0, len(body), WINDOW):
        census.look(body[start : start + WINDOW])
        if census.excess is not None:
            raise InvalidRequest(f"The request body has {census.excess}.", code="invalid_json")
