"""Logs one line for each job that an attempt has ended, and counts it. The line has numbers, names and the error's
words, no prompt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import structlog

from shared.job import Job
from shared.ports import Claim, Ending
from worker.generation import Generation
from worker.telemetry.metrics import count_claim, count_end

log = structlog.get_logger(__name__)


class AttemptReport:
    """The moments of an attempt, which begins with its claim."""

    def __init__(self, job: Job, claim: Claim, generation: Generation) -> None:
        self._job = job
        self._generation = generation
        self._claimed_at = time.time()
        self._wait = max(0.0, self._claimed_at - job.created_at)
        count_claim(job, attempt=claim.attempt, wait=self._wait)

    def finished(self, ending: Ending) -> None:
        """Logs the job's end. `wait`: seconds from the submission to this attempt's claim; `first_token`: from the
        claim to the engine's first chunk; `seconds`: from the claim to the end.
        """
        job, usage, first = self._job, ending.usage or {}, self._generation.first_chunk_at
        error: Mapping[str, Any] = ending.error or {}
        first_token, seconds = first and first - self._claimed_at, time.time() - self._claimed_at
        count_end(job, ending, first_token=first_token, seconds=seconds)
        log.info(
            "job.finished",
            outcome=ending.status.value,
            model=job.model,
            tier=job.tier.value,
            wait=round(self._wait, 3),
            first_token=None if first_token is None else round(first_token, 3),
            seconds=round(seconds, 3),
            tokens_in=usage.get("prompt_tokens"),
            tokens_out=usage.get("completion_tokens"),
            code=error.get("code"),
            error=words_for_the_log(error),
        )


def words_for_the_log(error: Mapping[str, Any]) -> str | None:
    """Returns the error's message; None for a refused request, because engines quote the request in those."""
    return None if error.get("type") == "invalid_request_error" else error.get("message")
