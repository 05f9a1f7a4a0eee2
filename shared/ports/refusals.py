"""Errors that both the log and the store raise."""

from __future__ import annotations

from shared.job import JobStatus


class AttemptFenced(Exception):
    """The attempt's writes are refused: another attempt holds the claim, or the job is over or being cancelled.

    `status`: the job's status now; `cancelling`: whether the running job has been asked to stop. Both are for logging.
    """

    def __init__(self, status: JobStatus | None, *, cancelling: bool = False) -> None:
        super().__init__(f"fenced: the job is {'being cancelled' if cancelling else status or 'gone'}")
        self.status = status
        self.cancelling = cancelling


class LogShorter(ValueError):
    """The log ends at `size`, before the given offset: the store has lost bytes that it had confirmed."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the log ends at {size}")
        self.size = size
