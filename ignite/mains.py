"""The three processes: the API, a worker, and both in one."""

from __future__ import annotations

from ignite.running import running_engine, say, serving, stop_signals, until, working
from shared.backends import open_backend
from shared.settings import Settings, SettingsError


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
            say(f"ignite is ready: {server.address}/v1 · model {engine.card.id} · {where} · Ctrl-C stops it")
            await until(stop, worker)


async def run_api(settings: Settings) -> None:
    require_distributed(settings, "ignite api")
    with stop_signals() as stop:
        async with open_backend(settings) as backend, serving(backend, settings) as server:
            say(f"ignite api is ready: {server.address}/v1")
            await stop.wait()


async def run_worker(settings: Settings) -> None:
    require_distributed(settings, "ignite worker")
    with stop_signals() as stop:
        async with (
            open_backend(settings) as backend,
            running_engine(settings) as engine,
            working(backend, engine, settings) as worker,
        ):
            card = engine.card
            say(f"ignite worker is ready: model {card.id} · engine {card.engine} · {engine.concurrency} slots")
            await until(stop, worker)


def require_distributed(settings: Settings, command: str) -> None:
    if not settings.distributed:
        raise SettingsError(
            f"'{command}' needs RabbitMQ and Redis: set IGNITE_AMQP_URL and IGNITE_REDIS_URL, "
            "or run everything in one process with 'ignite up'."
        )
