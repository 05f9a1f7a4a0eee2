"""The `ignite` command."""

from __future__ import annotations

from typing import Any

import click

from ignite import __version__
from ignite.commands.batch import batch
from ignite.commands.dead import dead
from ignite.commands.fleet import queues, workers
from ignite.commands.jobs import jobs
from ignite.commands.keys import keys
from ignite.commands.options import settings_of, settings_options

BACKEND = (
    *("amqp_url", "redis_url", "redis_eviction", "consumer_timeout"),
    *("queue_limit", "queue_token_limit", "tenant_queue_limit", "tenant_store_limit", "fairness", "tenant_weights"),
)
API = (
    *(
        "host",
        "port",
        "grpc",
        "grpc_port",
        "api_keys",
        "metrics_key",
        "body_limit",
        "body_budget",
        "tenant_body_budget",
        "media_urls",
        "media_hosts",
        "engine_fields",
        "answer_token_limit",
        "models",
        "worker_patience",
    ),
    *("head_limit", "connection_limit", "address_connection_limit", "tenant_call_limit", "tenant_reader_limit"),
    *("head_timeout", "body_timeout", "idle_timeout", "write_timeout"),
    *("no_auth", "no_auth_anywhere", "no_auth_hosts"),
    *(
        "grpc_connections",
        "grpc_address_connections",
        "grpc_streams",
        "grpc_calls",
        "grpc_receive_memory",
        "grpc_receive_timeout",
    ),
    *("job_deadline", "retention", "job_retention", "store_retention", "keepalive", "unary_padding", "sweep"),
    *("file_limit", "tenant_file_limit", "file_retention", "files_dir", "files_url", "files_endpoint"),
    *("webhook_secret", "webhook_private"),
    *("batch_lines", "tenant_batch_limit", "batch_window", "batch_escalation", "batch_lease"),
)
WORKER = (
    *("engine", "model", "model_id", "model_limit", "model_aliases", "model_modalities"),
    *("engine_url", "engine_api_key", "engine_command", "engine_args"),
    *("engine_continuation", "engine_omit", "engine_max_tokens", "engine_start_timeout", "concurrency"),
    *(
        "context_length",
        "default_max_tokens",
        "cache_salt",
        "threads",
        "gpu_layers",
        "simulated_tokens",
        "simulated_seed",
        "simulated_itl_ms",
        "simulated_ttft_ms",
    ),
    *(
        "lease",
        "max_tries",
        "retry_backoff",
        "quarantine_after",
        "stall_timeout",
        "job_log_limit",
        "reserved_slots",
        "flex_patience",
    ),
    *("metrics_port", "metrics_host"),
)
PROCESS = ("drain", "log_level", "log_format")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ignite")
def cli() -> None:
    """Serve LLM completions to bursty traffic on a durable queue.

    Each option of up, api, worker and doctor is also an environment variable (--grpc-port: IGNITE_GRPC_PORT) and a line
    in ignite.toml (grpc_port = 50051).
    """


@cli.command()
@settings_options(*API, "data_dir", *WORKER, *BACKEND, *PROCESS)
def up(**options: Any) -> None:
    """Start API and worker in one process; needs no servers.

    The data is in SQLite; without --model the demo model answers.
    """
    from ignite.running import run
    from ignite.up import run_up

    settings = settings_of(options)
    run(settings, run_up(settings))


@cli.command()
@settings_options("processes", *API, *BACKEND, *PROCESS)
def api(**options: Any) -> None:
    """Start the API; needs RabbitMQ and Redis."""
    from ignite.api_process import run_apis

    run_apis(settings_of(options))


@cli.command()
@settings_options("processes", *WORKER, *BACKEND, *PROCESS)
def worker(**options: Any) -> None:
    """Start a worker with one engine; needs RabbitMQ and Redis."""
    from ignite.worker_process import run_workers

    run_workers(settings_of(options))


@cli.command()
@settings_options(*API, "data_dir", *WORKER, *BACKEND)
def doctor(**options: Any) -> None:
    """Check settings, servers and ports; print how to fix problems."""
    from ignite.commands.doctor import run_doctor

    run_doctor(options)


cli.add_command(batch)
cli.add_command(jobs)
cli.add_command(dead)
cli.add_command(keys)
cli.add_command(queues)
cli.add_command(workers)
