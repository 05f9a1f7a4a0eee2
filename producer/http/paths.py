"""Suggests a path to clients that call an unknown one, and completes request targets without a path."""

from __future__ import annotations

import re
from collections.abc import Callable

import httptools

SLASHES = re.compile("/{2,}")
LONGEST = 1000
"""Characters. No suggestion is made for longer paths."""


def likely_path(path: str, exists: Callable[[str], bool]) -> str | None:
    """Returns an existing path that differs only in double or trailing slashes, case, or the `/v1` prefix."""
    if len(path) > LONGEST:
        return None
    plain = SLASHES.sub("/", path).rstrip("/")
    after = plain.rpartition("/v1/")[2].lstrip("/")
    candidates = plain, plain.lower(), f"/v1/{after}"
    return next((each for each in candidates if each and each != path and exists(each)), None)


def with_path(url: bytes) -> bytes:
    """Adds the path `/` to an absolute request target without one."""
    parsed = httptools.parse_url(url)
    if parsed.path or not parsed.host:
        return url
    return b"/" + (b"?" + parsed.query if parsed.query else b"")
