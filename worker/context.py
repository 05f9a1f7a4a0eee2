"""What every execution of a worker shares."""

from __future__ import annotations

from dataclasses import dataclass

from shared.ports import Backend
from worker.engines.base import Engine
from worker.failed_attempts import FailedAttempts
from worker.throttle import Throttle


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Times in seconds. `log_limit`: bytes that a job's answer may have."""

    worker_id: str
    backend: Backend
    engine: Engine
    lease_seconds: float
    max_tries: int
    retry_backoff: float
    quarantine_after: int
    failed_attempts: FailedAttempts
    throttle: Throttle
    log_limit: int = 64 * 1024 * 1024
