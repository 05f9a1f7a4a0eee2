"""How an attempt ended, as values: execution decides which, and settles each in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.errors import IgniteError
from shared.frames import error_frames
from shared.job import JobStatus
from shared.ports import AttemptFenced, Ending


@dataclass(frozen=True, slots=True)
class Completed:
    result: dict[str, Any]
    frames: bytes = b""


@dataclass(frozen=True, slots=True)
class Failed:
    """For good: another attempt would not help, or there is none left."""

    error: IgniteError


@dataclass(frozen=True, slots=True)
class TryAgain:
    """The engine could not do it this time."""

    error: IgniteError


@dataclass(frozen=True, slots=True)
class Cancelled:
    pass


@dataclass(frozen=True, slots=True)
class Expired:
    pass


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Drained: handed back for another worker, not counted as a try."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """The claim is not ours any more; whoever holds it settles the job."""

    reason: AttemptFenced


Outcome = Completed | Failed | TryAgain | Cancelled | Expired | Interrupted | Fenced


def ended_early(
    status: JobStatus, error: IgniteError, *, result: bytes | None = None, usage: dict[str, Any] | None = None
) -> Ending:
    record = error.to_dict()
    return Ending(status, error_frames(record), result, usage=usage, error=record)
