"""What a client probably meant by a path that there is not."""

from __future__ import annotations

import re
from collections.abc import Callable

SLASHES = re.compile("/{2,}")
LONGEST = 1000
"""Characters of a path that is looked at."""


def meant(path: str, exists: Callable[[str], bool]) -> str | None:
    """A path that exists: without doubled and trailing slashes, and with `/v1` in its front once."""
    if len(path) > LONGEST:
        return None
    plain = SLASHES.sub("/", path).rstrip("/")
    after = plain.rpartition("/v1/")[2].lstrip("/")
    candidates = plain, plain.lower(), f"/v1/{after}"
    return next((each for each in candidates if each and each != path and exists(each)), None)
