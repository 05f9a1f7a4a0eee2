"""Who may submit what, decided without waiting. Pure: facts in, a refusal or nothing out."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import DeadlineExceeded, IgniteError, ShuttingDown

DRAIN_RETRY = 5.0
"""Seconds until a client should try again while this replica drains: another one answers by then."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What admission looks at. `time_left`: seconds until the deadline."""

    draining: bool
    time_left: float


def refusal(facts: Facts) -> IgniteError | None:
    if facts.draining:
        return ShuttingDown("This server is shutting down.", retry_after=DRAIN_RETRY)
    if facts.time_left <= 0:
        return DeadlineExceeded(
            "The deadline had passed before the request was queued.", code="deadline_exceeded_in_queue"
        )
    return None
