"""Prometheus metrics. Labels are models, tiers and modes: bounded by the catalog, never by what clients send."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import Counter, Gauge, Histogram

from shared.ports import WorkerInfo

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

JOBS_SUBMITTED = Counter("ignite_jobs_submitted", "Jobs accepted by this replica", ["model", "tier", "mode"])
CALLS_ENDED = Counter("ignite_calls_ended", "Waiting calls that ended, by ending", ["model", "ending"])
REQUESTS = Counter(
    "ignite_requests", "Finished requests and calls, by protocol, route and status", ["protocol", "route", "status"]
)
REFUSALS = Counter("ignite_refusals", "Requests that were not accepted, by the error's code", ["code"])
AUTH_FAILURES = Counter("ignite_auth_failures", "Calls refused for a missing or unknown key, by reason", ["reason"])
WEBHOOKS = Counter("ignite_webhooks", "Webhook events sent, by outcome", ["outcome"])
BODY_BYTES = Gauge("ignite_request_body_bytes", "Bytes of request bodies in this process's memory")
BODIES_REFUSED = Counter("ignite_request_bodies_refused", "Requests refused by a byte budget, by budget", ["bound"])
TASKS = Gauge("ignite_asyncio_tasks", "Tasks of this process's event loop; about constant in an idle process")
OPEN_CALLS = Gauge("ignite_open_calls", "Waiting calls being served now", ["mode"])
CONNECTIONS = Gauge("ignite_http_connections", "Open HTTP connections")
CONNECTIONS_CUT = Counter(
    "ignite_http_connections_cut", "HTTP connections that were refused or cut, and heads refused, by reason", ["reason"]
)
FIRST_BYTE = Histogram(
    "ignite_first_byte_seconds",
    "Seconds from submit to the first byte of the answer",
    ["model", "mode"],
    buckets=LATENCY_BUCKETS,
)
BATCH_LINES_ESCALATED = Counter(
    "ignite_batch_lines_escalated", "Lines of batches that this replica submitted in the tier default", ["model"]
)
QUEUE_DEPTH = Gauge("ignite_queue_depth", "Waiting jobs of the queue", ["model", "tier"])
QUEUE_RUNNING = Gauge("ignite_queue_running", "Running jobs of the queue", ["model", "tier"])
QUEUE_TOKENS = Gauge("ignite_queue_tokens", "Estimated tokens of the waiting jobs", ["model", "tier"])
QUEUE_OLDEST = Gauge("ignite_queue_oldest_seconds", "Seconds that the oldest waiting job has waited", ["model", "tier"])
QUEUE_BACKLOG = Gauge(
    "ignite_queue_backlog_seconds", "Seconds until the last waiting job starts, at the measured rate", ["model", "tier"]
)
WORKER_SLOTS = Gauge("ignite_worker_slots", "Slots of ready workers", ["model"])
ENGINE_RUNNING = Gauge("ignite_engine_requests_running", "Requests that the engines work on", ["model"])
ENGINE_WAITING = Gauge("ignite_engine_requests_waiting", "Requests that wait inside the engines", ["model"])
ENGINE_CACHE = Gauge("ignite_engine_kv_cache_usage", "The fullest engine's use of its KV cache, 0 to 1", ["model"])
ENGINE_PREFIX_QUERIES = Gauge(
    "ignite_engine_prefix_cache_queries", "Prompt tokens looked for in the engines' prefix caches", ["model"]
)
ENGINE_PREFIX_HITS = Gauge("ignite_engine_prefix_cache_hits", "Prompt tokens found there", ["model"])
ENGINE_PREEMPTIONS = Gauge("ignite_engine_preemptions", "Requests that the engines have preempted", ["model"])
ENGINE_RESTARTS = Gauge("ignite_engine_restarts", "Restarts of the engines' processes by their workers", ["model"])
ENGINE_START = Gauge("ignite_engine_start_seconds", "The slowest engine's time until it could generate", ["model"])
WORKERS = Gauge("ignite_workers", "Ready workers: connected, with an engine that can generate", ["model"])

ENGINE_GAUGES: tuple[tuple[Gauge, str, Callable[[Iterable[float]], float]], ...] = (
    (ENGINE_RUNNING, "running", sum),
    (ENGINE_WAITING, "waiting", sum),
    (ENGINE_CACHE, "kv_cache_usage", max),
    (ENGINE_PREFIX_QUERIES, "prefix_cache_queries", sum),
    (ENGINE_PREFIX_HITS, "prefix_cache_hits", sum),
    (ENGINE_PREEMPTIONS, "preemptions", sum),
    (ENGINE_RESTARTS, "restarts", sum),
    (ENGINE_START, "start_seconds", max),
)
"""Each gauge with the field of an engine's state, and how those of several workers are combined."""


def measure_engines(workers: Sequence[WorkerInfo]) -> None:
    """Sets the engines' gauges, by the worker's main model; there is none for what no engine reports."""
    for gauge, name, combined in ENGINE_GAUGES:
        reported: defaultdict[str, list[float]] = defaultdict(list)
        for worker in workers:
            value: float | None = getattr(worker.engine_state, name, None)
            if value is not None:
                reported[worker.model.id].append(value)
        gauge.clear()
        for model, values in reported.items():
            gauge.labels(model).set(combined(values))
