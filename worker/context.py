"""The dependencies that all executions of a worker share."""

from __future__ import annotations

from dataclasses import dataclass

from shared.ports import Backend
from worker.cache_salt import CacheSalt
from worker.engines.base import Engine
from worker.failed_attempts import FailedAttempts
from worker.throttle import Throttle


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Times are in seconds. `log_limit`: the most bytes of a job's answer. `default_max_tokens`: see WorkerOptions."""

    worker_id: str
    backend: Backend
    engine: Engine
    lease_seconds: float
    max_tries: int
    retry_backoff: float
    quarantine_after: int
    failed_attempts: FailedAttempts
    throttle: Throttle
    default_max_tokens: int = 0
    cache_salt: CacheSalt | None = None
    log_limit: int = 64 * 1024 * 1024
