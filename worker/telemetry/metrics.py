"""Prometheus metrics of all jobs that end on this worker: calls, background jobs and lines of batches. Labels are
models, tiers, outcomes and Ignite's own error codes, so their number is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Histogram

from shared.errors import code_label
from shared.job import Job
from shared.ports import Ending

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
INTERVALS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

JOBS_ENDED = Counter(
    "ignite_jobs_ended", "Jobs that ended on this worker, by outcome and code", ["model", "tier", "outcome", "code"]
)
JOB_TOKENS = Counter("ignite_job_tokens", "Tokens of ended jobs: in, out, cached (a part of in)", ["model", "kind"])
JOB_WAIT = Histogram("ignite_job_wait_seconds", "Creation to first claim", ["model", "tier"], buckets=SECONDS)
JOB_FIRST_TOKEN = Histogram("ignite_job_first_token_seconds", "Claim to first chunk", ["model"], buckets=SECONDS)
JOB_TOKEN_INTERVAL = Histogram(
    "ignite_job_token_interval_seconds", "A streamed answer's mean time between tokens", ["model"], buckets=INTERVALS
)
JOB_RUN = Histogram("ignite_job_run_seconds", "Last claim to end", ["model", "tier"], buckets=SECONDS)
JOB_RETRIES = Counter("ignite_job_retries", "Attempts that failed and are tried again", ["model"])
JOB_TAKEOVERS = Counter("ignite_job_takeovers", "Jobs taken over from a worker that was lost", ["model"])


NOTHING: Mapping[str, Any] = {}


def count_claim(job: Job, *, attempt: int, wait: float) -> None:
    if attempt == 1:
        JOB_WAIT.labels(job.model, job.tier.value).observe(wait)


def count_end(job: Job, ending: Ending, *, first_token: float | None, seconds: float) -> None:
    """Counts a job that has ended. Times are in seconds since the claim."""
    model, usage = job.model, ending.usage or NOTHING
    code = "" if ending.error is None else code_label(ending.error.get("code"))
    JOBS_ENDED.labels(model, job.tier.value, ending.status.value, code).inc()
    JOB_RUN.labels(model, job.tier.value).observe(seconds)
    made = usage.get("completion_tokens") or 0
    cached = cached_tokens(usage)
    for kind, tokens in (("in", usage.get("prompt_tokens") or 0), ("out", made), ("cached", cached)):
        JOB_TOKENS.labels(model, kind).inc(tokens)
    if first_token is not None:
        JOB_FIRST_TOKEN.labels(model).observe(first_token)
        if made > 1:
            JOB_TOKEN_INTERVAL.labels(model).observe((seconds - first_token) / (made - 1))


def cached_tokens(usage: Mapping[str, Any]) -> int:
    details: Mapping[str, Any] = usage.get("prompt_tokens_details") or NOTHING
    return details.get("cached_tokens") or 0
