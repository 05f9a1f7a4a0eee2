"""What all processes share: run a main, stop on signals, say that one is ready."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
import signal
from collections.abc import Coroutine, Generator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, cast

import click
import structlog
import uvloop

from shared.errors import BackendUnavailable, IgniteError
from shared.logs import set_up_logs
from shared.ports import Backend
from shared.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

CLOSING = 1.0
"""Seconds in which the drivers' own tasks end that close connections."""

M_MMAP_THRESHOLD = -3
"""glibc's number of the option."""

LARGE = 1024 * 1024
"""Bytes of a block of memory from which on it is the system's, and not a heap's."""

MENDABLE = (IgniteError, SettingsError, OSError)


def run(settings: Settings, main: Coroutine[Any, Any, None]) -> None:
    """Run a process's main; what the user can mend ends it with one sentence and status 1."""
    calm_garbage_collection()
    give_back_large_memory()
    raise_open_files()
    with mendable(settings), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(tidily(main))


@contextmanager
def mendable(settings: Settings) -> Generator[None]:
    """Logs are set up inside, and what the user can mend ends the process with one sentence and status 1."""
    set_up_logs(settings.log_level, settings.log_format)
    try:
        yield
    except MENDABLE as error:
        fail(error)
    except ExceptionGroup as group:
        if group.split(MENDABLE)[1] is not None:
            raise
        fail(first_of(group))


async def tidily(main: Coroutine[Any, Any, None]) -> None:
    """Run `main`, which has an owner for each of its tasks: one that is there at its end was lost sight of."""
    await main
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=CLOSING)
    if left:
        log.error("tasks.left", tasks=sorted(task.get_name() for task in left), next="they end with the process")


def calm_garbage_collection() -> None:
    """What is loaded by now stays: looking through it again and again took a seventh of the API's time under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def give_back_large_memory() -> None:
    """Memory of large objects returns to the system when they are freed. By default glibc keeps blocks of up to 32 MB
    in heaps that hardly ever shrink once it has seen some: large bodies would cost twice their memory, for good.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def raise_open_files() -> None:
    """As many as this process is allowed: each open call takes one, and shells and systemd begin with 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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


async def until(stop: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Until told to stop, or until a task that should not end has ended: then its error ends the process."""
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()


async def warn(backend: Backend, longest_job: float) -> None:
    """Tell the operator what to mend before it does harm. A part that is away is noticed elsewhere."""
    with suppress(BackendUnavailable):
        for sentence in await backend.warnings(longest_job):
            log.warning("backend.warning", warning=sentence)


def say(line: str) -> None:
    """A line on stdout, at once: whoever started us may be reading it."""
    click.echo(line)


def require_distributed(settings: Settings, command: str) -> None:
    if not settings.distributed:
        raise SettingsError(
            f"'{command}' needs RabbitMQ and Redis: set IGNITE_AMQP_URL and IGNITE_REDIS_URL, "
            "or run everything in one process with 'ignite up'."
        )
