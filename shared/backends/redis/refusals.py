"""Translates the refusals of Lua steps into the errors of the ports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.job import JobStatus
from shared.ports import AttemptFenced, LogShorter


def raise_if_refused(answer: Sequence[Any]) -> None:
    """Raises AttemptFenced or LogShorter if the answer of a step is a refusal."""
    if answer[0] == b"fenced":
        raise AttemptFenced(status_of(answer[1]), cancelling=bool(answer[2]))
    if answer[0] == b"gap":
        raise LogShorter(answer[1])


def status_of(raw: bytes) -> JobStatus | None:
    return JobStatus(raw.decode()) if raw else None
