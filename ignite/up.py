"""API and worker in one process."""

from __future__ import annotations

from ignite.api_process import serving
from ignite.running import say, stop_signals, until
from ignite.worker_process import running_engine, working
from shared.backends import open_backend
from shared.settings import Settings


async def run_up(settings: Settings) -> None:
    """One process with everything. Calls that are open finish first, so the worker stops after the API."""
    with stop_signals() as stop:
        async with (
            open_backend(settings) as backend,
            running_engine(settings) as engine,
            working(backend, engine, settings) as worker,
            serving(backend, settings) as server,
        ):
            where = "RabbitMQ and Redis" if settings.distributed else f"data in {settings.data_dir}"
            say(f"ignite is ready: {server.addresses} · model {engine.card.id} · {where} · Ctrl-C stops it")
            await until(stop, worker, *server.tasks)
