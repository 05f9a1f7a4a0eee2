"""Refusals that the log and the store share."""

from __future__ import annotations

from shared.job import JobStatus


class AttemptFenced(Exception):
    """This attempt may write no more: another attempt holds the claim, or the job is over or being cancelled.

    `status` is the job's status now, `cancelling` whether a running job has been asked to stop; both are for the log.
    """

    def __init__(self, status: JobStatus | None, *, cancelling: bool = False) -> None:
        super().__init__(f"fenced: the job is {'being cancelled' if cancelling else status or 'gone'}")
        self.status = status
        self.cancelling = cancelling


class LogShorter(ValueError):
    """The log ends before the offset, at `size`: bytes are lost that whoever wrote them was answered for."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the log ends at {size}")
        self.size = size
