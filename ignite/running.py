"""The life of a process on one page: start, say that it is ready, run until told to stop, drain, close."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NoReturn, cast

import click
import uvicorn
import uvloop

from producer.app import create_app
from shared.errors import IgniteError
from shared.logs import set_up_logs
from shared.ports import Backend
from shared.settings import Settings, SettingsError
from worker.consumer import Worker, WorkerOptions
from worker.engines.base import Engine
from worker.engines.open_engine import EngineSettings, open_engine

MENDABLE = (IgniteError, SettingsError, OSError)


def run(settings: Settings, main: Coroutine[Any, Any, None]) -> None:
    """Run a process's main; what the user can mend ends it with one sentence and status 1."""
    set_up_logs(settings.log_level, settings.log_format)
    calm_garbage_collection()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    except MENDABLE as error:
        fail(error)
    except ExceptionGroup as group:
        if group.split(MENDABLE)[1] is not None:
            raise
        fail(first_of(group))


def calm_garbage_collection() -> None:
    """What is loaded by now stays: looking through it again and again took a seventh of the API's time under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def fail(error: Exception) -> NoReturn:
    click.echo(f"ignite: {error}", err=True)
    raise SystemExit(1)


def first_of(error: Exception) -> Exception:
    """What a group of failures began with."""
    if isinstance(error, ExceptionGroup):
        group = cast(ExceptionGroup[Exception], error)
        return first_of(group.exceptions[0])
    return error


@contextmanager
def stop_signals() -> Generator[asyncio.Event]:
    """SIGTERM and SIGINT set the event: once to drain; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def handle(number: signal.Signals) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle, number)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class ApiServer(uvicorn.Server):
    """uvicorn without its signal handlers: signals belong to the main."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    @property
    def address(self) -> str:
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@asynccontextmanager
async def serving(backend: Backend, settings: Settings) -> AsyncGenerator[ApiServer]:
    """The API is up inside; on leaving it takes no more calls and lets those that are open finish."""
    app = create_app(backend, settings)
    server = ApiServer(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="none",
            http="httptools",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            backlog=4096,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(settings.drain)),
        )
    )
    task = asyncio.create_task(serve(server), name="api")
    try:
        await started(server, task)
        yield server
    finally:
        app.state.doors.service.draining = True
        server.should_exit = True
        await task


async def serve(server: ApiServer) -> None:
    try:
        await server.serve()
    except SystemExit as error:
        # uvicorn's way to say that it could not bind; its log line names the reason.
        raise OSError(f"cannot listen on {server.config.host}:{server.config.port}") from error


async def started(server: ApiServer, task: asyncio.Task[None]) -> None:
    while not server.started:
        await asyncio.wait([task], timeout=0.01)
        if task.done():
            task.result()
            raise OSError(f"the API did not start on {server.config.host}:{server.config.port}")


def engine_settings(settings: Settings) -> EngineSettings:
    return EngineSettings(
        kind=settings.engine,
        model=settings.model,
        model_id=settings.model_id,
        concurrency=settings.concurrency,
        context_length=settings.context_length,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        url=settings.engine_url,
        api_key=settings.engine_api_key,
        command=settings.engine_command,
        extra_args=tuple(settings.engine_args.split()),
        continuation=settings.engine_continuation,
        start_timeout=settings.engine_start_timeout,
        stall_timeout=settings.stall_timeout,
        simulated_tokens=settings.simulated_tokens,
        simulated_itl_ms=settings.simulated_itl_ms,
        simulated_ttft_ms=settings.simulated_ttft_ms,
    )


@asynccontextmanager
async def running_engine(settings: Settings) -> AsyncGenerator[Engine]:
    engine = open_engine(engine_settings(settings))
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


def worker_options(settings: Settings) -> WorkerOptions:
    return WorkerOptions(settings.lease, settings.drain, settings.max_tries, settings.retry_backoff)


@asynccontextmanager
async def working(backend: Backend, engine: Engine, settings: Settings) -> AsyncGenerator[asyncio.Task[None]]:
    """A worker takes jobs inside; on leaving it drains. Its task ends early only if it has died."""
    stop = asyncio.Event()
    worker = Worker(backend, engine, worker_options(settings))
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


async def until(stop: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Until told to stop, or until a task that should not end has ended: then its error ends the process."""
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()


def say(line: str) -> None:
    """A line on stdout, at once: whoever started us may be reading it."""
    click.echo(line)
