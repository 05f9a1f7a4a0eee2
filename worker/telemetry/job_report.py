"""Logs one line for each job that an attempt has ended. It has numbers, names and an error's words, no prompt."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import structlog

from shared.job import Job
from shared.ports import Ending
from worker.generation import Generation

log = structlog.get_logger(__name__)


class AttemptReport:
    """The moments of an attempt, which begins with its claim."""

    def __init__(self, job: Job, generation: Generation) -> None:
        self._job = job
        self._generation = generation
        self._claimed_at = time.time()

    def finished(self, ending: Ending) -> None:
        """Logs the job's end. `wait`: seconds from the submission to this attempt's claim; `first_token`: from the
        claim to the engine's first chunk; `seconds`: from the claim to the end.
        """
        job, usage, first = self._job, ending.usage or {}, self._generation.first_chunk_at
        error: Mapping[str, Any] = ending.error or {}
        log.info(
            "job.finished",
            outcome=ending.status.value,
            model=job.model,
            tier=job.tier.value,
            wait=round(max(0.0, self._claimed_at - job.created_at), 3),
            first_token=None if first is None else round(first - self._claimed_at, 3),
            seconds=round(time.time() - self._claimed_at, 3),
            tokens_in=usage.get("prompt_tokens"),
            tokens_out=usage.get("completion_tokens"),
            code=error.get("code"),
            error=error.get("message"),
        )
