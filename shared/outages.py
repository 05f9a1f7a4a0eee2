"""An outage is logged at its start and at its end, however many steps fail meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable


class Outage:
    """One part that several steps wait for. `clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def begins(self) -> bool:
        """Notes a failure. Returns whether it is the first of the outage."""
        if self._since is not None:
            return False
        self._since = self._clock()
        return True

    def ends(self) -> float | None:
        """Notes a success. Returns the seconds of the outage that it ends; None if there was none."""
        if self._since is None:
            return None
        since, self._since = self._since, None
        return round(self._clock() - since, 1)
