"""Shared by all processes: runs the main coroutine, handles stop signals, reports readiness."""

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
"""Seconds to wait for the drivers' tasks that close connections."""

M_MMAP_THRESHOLD = -3
"""glibc's number of the option M_MMAP_THRESHOLD."""

LARGE = 1024 * 1024
"""Blocks of at least this many bytes come from the system instead of a heap."""

USER_ERRORS = (IgniteError, SettingsError, OSError)


def run(settings: Settings, main: Coroutine[Any, Any, None]) -> None:
    """Runs a process's main coroutine. Errors that the user can fix end the process with one message and status 1."""
    calm_garbage_collection()
    release_large_memory()
    raise_open_files()
    with reporting_user_errors(settings), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(tidily(main))


@contextmanager
def reporting_user_errors(settings: Settings) -> Generator[None]:
    """Sets up logs; errors that the user can fix end the process with one message and status 1."""
    set_up_logs(settings.log_level, settings.log_format)
    try:
        yield
    except USER_ERRORS as error:
        fail(error)
    except ExceptionGroup as group:
        if group.split(USER_ERRORS)[1] is not None:
            raise
        fail(first_of(group))


async def tidily(main: Coroutine[Any, Any, None]) -> None:
    """Runs `main` and logs tasks that are left at its end: each of its tasks should have an owner that awaits it."""
    await main
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=CLOSING)
    if left:
        log.error("tasks.left", tasks=sorted(task.get_name() for task in left), next="they end with the process")


def calm_garbage_collection() -> None:
    """Excludes loaded objects from garbage collection, which took a seventh of the API's time under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def release_large_memory() -> None:
    """Returns the memory of large objects to the system when they are freed. By default glibc keeps blocks of up to
    32 MB in heaps that hardly shrink: large bodies would permanently cost twice their memory.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def raise_open_files() -> None:
    """Raises the limit of open files to the hard limit: each open call takes one file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS refuses a limit as high as its hard limit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def fail(error: Exception) -> NoReturn:
    click.echo(f"ignite: {error}", err=True)
    raise SystemExit(1)


def first_of(error: Exception) -> Exception:
    """Returns the first failure of a group, or the error itself."""
    if isinstance(error, ExceptionGroup):
        group = cast(ExceptionGroup[Exception], error)
        return first_of(group.exceptions[0])
    return error


@contextmanager
def stop_signals() -> Generator[asyncio.Event]:
    """Yields an event that SIGTERM and SIGINT set; a second signal ends the process at once."""
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
    """Waits until `stop` is set or one of `tasks` ends; the error of that task then ends the process."""
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()


async def warn(backend: Backend, longest_job: float) -> None:
    """Logs the backend's warnings. An unavailable backend is reported by the health checks."""
    with suppress(BackendUnavailable):
        for sentence in await backend.warnings(longest_job):
            log.warning("backend.warning", warning=sentence)


def say(line: str) -> None:
    """Prints a line on stdout without buffering: a supervisor may be reading it."""
    click.echo(line)


def require_distributed(settings: Settings, command: str) -> None:
    if not settings.distributed:
        raise SettingsError(
            f"'{command}' needs RabbitMQ and Redis: set IGNITE_AMQP_URL and IGNITE_REDIS_URL, "
            "or run everything in one process with 'ignite up'."
        )
