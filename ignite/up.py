"""API and worker in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import structlog

from ignite.api_process import serving
from ignite.running import say, stop_signals, until
from ignite.worker_process import running_engine, shown_models, working
from producer.auth.keyring import Keyless
from producer.storage import open_storage
from shared.backends import open_backend
from shared.errors import StoreFull
from shared.ports import Backend
from shared.settings import Settings

log = structlog.get_logger(__name__)

ROOM_RETRY = 1.0
"""Seconds between looks at a disk that was full at the start."""


async def run_up(settings: Settings) -> None:
    """Runs API and worker in one process. The worker stops after the API, so that open calls finish first."""
    open_storage(settings)  # Raises for wrong settings before the worker announces its model.
    with stop_signals() as stop:
        async with (
            backend_with_room(settings, stop) as backend,
            running_engine(settings) as engine,
            working(backend, engine, settings) as worker,
            serving(backend, settings, keyless=keyless_by_default(settings)) as server,
        ):
            where = "RabbitMQ and Redis" if settings.distributed else f"data in {settings.data_dir}"
            served = f"{server.addresses} · console {server.address}/console · {shown_models(engine)}"
            say(f"ignite is ready: {served} · {where} · Ctrl-C stops it")
            await until(stop, worker, *server.tasks)


@asynccontextmanager
async def backend_with_room(settings: Settings, stop: asyncio.Event) -> AsyncGenerator[Backend]:
    """Opens the backend as soon as its disk has room: a restart while the disk is full must not need another one.
    Ends the process if `stop` is set meanwhile.
    """
    full_since = None
    async with AsyncExitStack() as stack:
        while True:
            try:
                backend = await stack.enter_async_context(open_backend(settings))
                break
            except StoreFull as error:
                if full_since is None:
                    full_since = time.monotonic()
                    log.error("database.refuses", error=error.detail, next="starts as soon as there is room")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), ROOM_RETRY)
                raise SystemExit(0)
        if full_since is not None:
            log.warning("database.writes_again", after_s=round(time.monotonic() - full_since, 1))
        yield backend


def keyless_by_default(settings: Settings) -> Keyless:
    """Serves loopback without keys until the first key, in embedded mode only: a Redis that lost its keys must
    not open the API.
    """
    return Keyless.UNTIL_FIRST_KEY if settings.on_loopback and not settings.distributed else Keyless.NEVER
