"""Moves a batch that falls behind its window up: some of its next lines run in the tier default instead of flex.

A batch is *behind* while its expected finish is past its window, less a margin; it has *slack* while the finish is
before its window, less twice the margin. Behind, its level rises by one every STEP_EVERY seconds; with slack it falls
again; between the two it stays, so that it does not swing. The level gives its share of the slots that lines in the
tier default may use: of all slots of a model the setting `batch_escalation`, for all escalated batches together. No
line ever runs in the tier priority, and lines that wait in flex stay there.

The forecast follows from the rate of the tier flex. Lines in the tier default are not part of it, so an escalated batch
uses its own pace where that is better.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import structlog

from producer.batches.document import Batch

log = structlog.get_logger(__name__)

STEP_EVERY = 2.0
"""Seconds between two changes of the level."""

HIGHEST = 4
MARGIN = 0.05
"""Share of the window."""

MEMORY = 30.0
"""Seconds after which an answer counts e times less in the pace."""


class Pace:
    """The tokens per second of a batch's answers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._tokens = self._seconds = 0.0

    def add(self, tokens: int) -> None:
        """Counts the tokens that were answered since the last call."""
        now = self._clock()
        passed, self._at = now - self._at, now
        kept = math.exp(-passed / MEMORY)
        self._tokens, self._seconds = self._tokens * kept + tokens, self._seconds * kept + passed

    def seconds_for(self, tokens: float) -> float:
        return tokens * self._seconds / self._tokens if self._tokens else math.inf


class Escalation:
    """`share`: of a model's slots that all escalated batches may use; `level`: from 0 to HIGHEST."""

    def __init__(self, batch_id: str, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._batch_id = batch_id
        self._share = share
        self._clock = clock
        self._stepped_at = -math.inf
        self.pace = Pace(clock)
        self.level = 0

    def update(self, batch: Batch, expected_at: float | None, now: float) -> None:
        """Changes the level by the batch's forecast (Unix seconds; None if unknown), at most by one. `now`: Unix
        seconds. A batch that was accepted late is never moved up: its window was not promised.
        """
        if not self._share or batch.late or self._clock() - self._stepped_at < STEP_EVERY:
            return
        if self.level and expected_at is not None:
            left = sum(batch.tokens.values()) * batch.share_left
            expected_at = min(expected_at, now + self.pace.seconds_for(left))
        margin = MARGIN * (batch.expires_at - batch.created_at)
        before = self.level
        if expected_at is None or expected_at < batch.expires_at - 2 * margin:
            self.level = max(0, before - 1)
        elif expected_at > batch.expires_at - margin:
            self.level = min(HIGHEST, before + 1)
        if self.level != before:
            self._stepped_at = self._clock()
        if bool(self.level) != bool(before):
            tier = "default" if self.level else "flex"
            log.info("batch.tier_changed", batch=batch.id, tier=tier, late_by=lateness(batch, expected_at))

    def lines(self, slots: int, escalated: Iterable[str]) -> int:
        """Returns how many of its lines may run in the tier default on a model with that many slots. `escalated`: ids
        of all open batches in that tier, which share what is allowed.
        """
        if not self.level:
            return 0
        allowed = int(slots * self._share)
        batches = sorted({*escalated, self._batch_id})
        own = allowed // len(batches) + (batches.index(self._batch_id) < allowed % len(batches))
        return math.ceil(own * self.level / HIGHEST)


def lateness(batch: Batch, expected_at: float | None) -> float | None:
    """Returns by how many seconds the batch is expected to miss its window; negative with slack; None if unknown."""
    known = expected_at is not None and math.isfinite(expected_at)
    return round(expected_at - batch.expires_at, 1) if known and expected_at is not None else None
