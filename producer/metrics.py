"""Prometheus metrics. Labels are models, tiers and modes: bounded by the catalog, never by what clients send."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

JOBS_SUBMITTED = Counter("ignite_jobs_submitted", "Jobs accepted by this replica", ["model", "tier", "mode"])
CALLS_ENDED = Counter("ignite_calls_ended", "Waiting calls that ended, by how", ["model", "ending"])
AUTH_FAILURES = Counter("ignite_auth_failures", "Calls that were refused for their key, by why", ["reason"])
WEBHOOKS = Counter("ignite_webhooks", "Events sent, by what came of it", ["outcome"])
BODY_BYTES = Gauge("ignite_request_body_bytes", "Bytes of request bodies that this process holds")
BODIES_REFUSED = Counter("ignite_request_bodies_refused", "Requests refused for want of room for them", ["bound"])
TASKS = Gauge("ignite_asyncio_tasks", "Tasks of this process's event loop: idle, always about as many")
OPEN_CALLS = Gauge("ignite_open_calls", "Waiting calls being served now", ["mode"])
CONNECTIONS = Gauge("ignite_http_connections", "Open HTTP connections")
CONNECTIONS_CUT = Counter(
    "ignite_http_connections_cut", "HTTP connections that were refused or cut, and heads refused, by reason", ["reason"]
)
FIRST_BYTE = Histogram(
    "ignite_first_byte_seconds",
    "From submit to the first byte of the answer",
    ["model", "mode"],
    buckets=LATENCY_BUCKETS,
)
QUEUE_DEPTH = Gauge("ignite_queue_depth", "Jobs that wait in the queue", ["model", "tier"])
QUEUE_RUNNING = Gauge("ignite_queue_running", "Jobs of the queue that run", ["model", "tier"])
QUEUE_TOKENS = Gauge("ignite_queue_tokens", "Estimated tokens of the jobs that wait", ["model", "tier"])
QUEUE_OLDEST = Gauge("ignite_queue_oldest_seconds", "How long the oldest job has waited", ["model", "tier"])
QUEUE_BACKLOG = Gauge(
    "ignite_queue_backlog_seconds", "Until the last job that waits is started, at the measured rate", ["model", "tier"]
)
WORKER_SLOTS = Gauge("ignite_worker_slots", "Slots of the workers that are ready", ["model"])
WORKERS = Gauge("ignite_workers", "Workers that are there, with an engine that can generate", ["model"])
