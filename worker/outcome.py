"""The ways in which an attempt can end, as values. `worker/execution.py` applies each in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.errors import IgniteError
from shared.frames import error_frames
from shared.job import JobStatus
from shared.ports import AttemptFenced, Ending


@dataclass(frozen=True, slots=True)
class Completed:
    """`result`: the `chat.completion` as JSON bytes."""

    result: bytes
    usage: dict[str, Any] | None
    frames: bytes = b""


@dataclass(frozen=True, slots=True)
class Failed:
    """The job has failed: another attempt would not help, or none is left."""

    error: IgniteError


@dataclass(frozen=True, slots=True)
class TryAgain:
    """The attempt failed; another one may succeed."""

    error: IgniteError


@dataclass(frozen=True, slots=True)
class Cancelled:
    pass


@dataclass(frozen=True, slots=True)
class Expired:
    pass


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Requeued because of a drain or for a higher tier; not counted as a try."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """The claim is no longer this worker's; the worker that holds it ends the job."""

    reason: AttemptFenced


Outcome = Completed | Failed | TryAgain | Cancelled | Expired | Interrupted | Fenced


def ended_early(
    status: JobStatus, error: IgniteError, *, result: bytes | None = None, usage: dict[str, Any] | None = None
) -> Ending:
    record = error.to_dict()
    return Ending(status, error_frames(record), result, usage=usage, error=record)
