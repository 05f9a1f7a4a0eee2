"""Starts and stops workers in processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from ignite import __version__
from ignite.processes import supervise
from ignite.running import reporting_user_errors, require_distributed, run, say, stop_signals, until, warn
from shared.backends import open_backend
from shared.names import bad_model, is_model_name
from shared.ports import Backend
from shared.settings import Settings, SettingsError, split_list
from worker.cache_salt import open_cache_salt
from worker.engines.base import Engine
from worker.engines.open_engine import EngineSettings, open_engine
from worker.telemetry.server import serving_metrics
from worker.worker import Worker, WorkerOptions

SHAREABLE_ENGINES = ("openai", "simulated")
"""Engines that several workers can use: the model runs in another process, or there is no model."""


SALTED = ("openai", "vllm")
"""Engines whose server may be a vLLM."""

SHOWN_MODELS = 8


def run_workers(settings: Settings) -> None:
    """Runs one or several worker processes, each with its own slots."""
    if settings.processes == 1:
        run(settings, run_worker(settings))
        return
    with reporting_user_errors(settings):
        if settings.engine not in SHAREABLE_ENGINES:
            raise SettingsError(
                f"processes is {settings.processes}, but each would load the engine {settings.engine}; "
                f"several processes are for the engines {' and '.join(SHAREABLE_ENGINES)}."
            )
        if settings.metrics_port:
            raise SettingsError(
                "metrics_port is for one process: several cannot share it. Leave processes at 1, or set 0."
            )
        supervise(settings.processes, lambda: run(settings, run_worker(settings)))


@asynccontextmanager
async def telemetry(settings: Settings) -> AsyncGenerator[str]:
    """Serves the worker's metrics, if they have a port, and yields their address for the message at start."""
    if settings.metrics_port is None:
        yield ""
        return
    async with serving_metrics(settings.metrics_host, settings.metrics_port) as port:
        yield f" · metrics http://{settings.metrics_host}:{port}/metrics"


async def run_worker(settings: Settings) -> None:
    require_distributed(settings, "ignite worker")
    with stop_signals() as stop:
        async with (
            telemetry(settings) as metrics,
            open_backend(settings, follows=False) as backend,
            running_engine(settings) as engine,
            working(backend, engine, settings) as worker,
        ):
            await warn(backend, settings.job_deadline)
            about = f"{shown_models(engine)} · engine {engine.card.engine} · {engine.concurrency} slots{metrics}"
            say(f"ignite worker is ready: {about}")
            await until(stop, worker)


def engine_settings(settings: Settings) -> EngineSettings:
    return EngineSettings(
        kind=settings.engine,
        model=settings.model,
        model_id=settings.model_id,
        model_limit=settings.model_limit,
        concurrency=settings.concurrency,
        context_length=settings.context_length,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        url=settings.engine_url,
        api_key=settings.engine_api_key,
        command=settings.engine_command,
        extra_args=tuple(settings.engine_args.split()),
        continuation=settings.engine_continuation,
        omitted_fields=tuple(name.strip() for name in settings.engine_omit.split(",") if name.strip()),
        knows_max_tokens_only=settings.engine_max_tokens,
        start_timeout=settings.engine_start_timeout,
        stall_timeout=settings.stall_timeout,
        simulated_tokens=settings.simulated_tokens,
        simulated_seed=settings.simulated_seed,
        simulated_itl_ms=settings.simulated_itl_ms,
        simulated_ttft_ms=settings.simulated_ttft_ms,
    )


def shown_models(engine: Engine) -> str:
    names = [card.id for card in engine.cards]
    further = f" and {len(names) - SHOWN_MODELS} more" if len(names) > SHOWN_MODELS else ""
    return f"{'model' if len(names) == 1 else 'models'} {', '.join(names[:SHOWN_MODELS])}{further}"


def require_model_name(name: str) -> None:
    """Raises SettingsError for an unsuitable model name; model_id replaces it."""
    if not is_model_name(name):
        raise SettingsError(f"{bad_model(name)}. Name it with --model-id.")


def name_of_model(settings: Settings) -> str | None:
    """Returns the model's name if the settings give one; otherwise the engine's server names it."""
    if settings.model_id or settings.model is None:
        return settings.model_id
    if settings.engine == "openai":
        return split_list(settings.model)[0]
    return Path(settings.model).stem if settings.engine == "llamacpp" else settings.model


@asynccontextmanager
async def running_engine(settings: Settings) -> AsyncGenerator[Engine]:
    """Starts and yields the engine. Raises SettingsError for an unsuitable model name, if possible before loading."""
    if (name := name_of_model(settings)) is not None:
        require_model_name(name)
    engine = open_engine(engine_settings(settings))
    try:
        await engine.start()
        require_model_name(engine.card.id)
        yield engine
    finally:
        await engine.close()


def worker_options(settings: Settings) -> WorkerOptions:
    return WorkerOptions(
        settings.lease,
        settings.drain,
        settings.max_tries,
        retry_backoff=settings.retry_backoff,
        quarantine_after=settings.quarantine_after,
        reserved_slots=settings.reserved_slots,
        flex_patience=settings.flex_patience,
        aliases=tuple(split_list(settings.model_aliases)),
        modalities=tuple(split_list(settings.model_modalities)),
        version=__version__,
        default_max_tokens=settings.default_max_tokens,
        log_limit=settings.job_log_limit,
    )


@asynccontextmanager
async def working(backend: Backend, engine: Engine, settings: Settings) -> AsyncGenerator[asyncio.Task[None]]:
    """Runs a worker and yields its task; drains on exit. The task ends earlier only if the worker failed."""
    stop = asyncio.Event()
    salt = await open_cache_salt(backend.documents) if settings.cache_salt and engine.card.engine in SALTED else None
    worker = Worker(backend, engine, worker_options(settings), salt)
    task = asyncio.create_task(worker.run(stop), name="worker")
    try:
        await worker_ready(worker, task)
        yield task
    finally:
        stop.set()
        await task


async def worker_ready(worker: Worker, task: asyncio.Task[None]) -> None:
    ready = asyncio.create_task(worker.ready.wait())
    await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if task.done():
        task.result()
