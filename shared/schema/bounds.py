"""What a JSON body may consist of, counted before anything is built from it. Pure.

A body's bytes say little about what it costs: 18 MB of text are one string, 18 MB of `[],` are six million lists. The
bytes that separate values are counted; those inside strings do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import InvalidRequest

MAX_CONTAINERS = 25_000
"""Lists and objects of a body. 2,048 messages with their calls, and 128 tools with their schemas, have half of that."""

MAX_VALUES = 200_000
"""Values of a body, containers among them."""

UNCOUNTED = 16 * 1024
"""Bytes: a body that is no larger may consist of what it likes."""

WINDOW = 64 * 1024
"""Bytes that are looked at in one go: other threads run in between."""

HEAVY_BYTES = 256 * 1024
HEAVY_CONTAINERS = 2_000
"""A body with more of either is checked beside the event loop."""


@dataclass(slots=True)
class Census:
    """Counts in windows; `in_string` and `escaped` say where the last one ended."""

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
        # Pairs of backslashes first: what is left escapes the character behind it.
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
    """Whether to check a body takes so long that others would have to wait for it."""
    if len(body) <= UNCOUNTED:
        return False
    return len(body) > HEAVY_BYTES or containers_at_most(body) > HEAVY_CONTAINERS


def refuse_excess(body: bytes) -> None:
    """Raises InvalidRequest where a body consists of too much. JSON that is none is refused by the parser, which builds
    no more of it than was counted.
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
