"""API and worker in one process."""

from __future__ import annotations

from ignite.api_process import serving
from ignite.running import say, stop_signals, until
from ignite.worker_process import running_engine, shown_models, working
from producer.auth.keyring import Keyless
from producer.storage import open_storage
from shared.backends import open_backend
from shared.settings import Settings


async def run_up(settings: Settings) -> None:
    """Runs API and worker in one process. The worker stops after the API, so that open calls finish first."""
    open_storage(settings)  # Raises for wrong settings before the worker announces its model.
    with stop_signals() as stop:
        async with (
            open_backend(settings) as backend,
            running_engine(settings) as engine,
            working(backend, engine, settings) as worker,
            serving(backend, settings, keyless=keyless_by_default(settings)) as server,
        ):
            where = "RabbitMQ and Redis" if settings.distributed else f"data in {settings.data_dir}"
            served = f"{server.addresses} · console {server.address}/console · {shown_models(engine)}"
            say(f"ignite is ready: {served} · {where} · Ctrl-C stops it")
            await until(stop, worker, *server.tasks)


def keyless_by_default(settings: Settings) -> Keyless:
    """Serves loopback without keys until the first key, in embedded mode only: a Redis that lost its keys must
    not open the API.
    """
    return Keyless.UNTIL_FIRST_KEY if settings.on_loopback and not settings.distributed else Keyless.NEVER
