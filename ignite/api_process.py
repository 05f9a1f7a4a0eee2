"""Starts and stops the API in a process."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, cast

import structlog
import uvicorn

from ignite.processes import supervise
from ignite.running import reporting_user_errors, require_distributed, run, say, stop_signals, until, warn
from producer.app import create_app, keyless_by
from producer.auth.keyring import Keyless
from producer.auth.keys import KeyRepository
from producer.http.connection.limits import Connections
from producer.http.connection.protocol import BoundedHttpProtocol
from producer.http.context import ApiContext
from producer.storage import open_storage
from shared.backends import open_backend
from shared.ports import Backend
from shared.settings import Settings, SettingsError

if TYPE_CHECKING:
    from producer.rpc.server import GrpcServer

log = structlog.get_logger(__name__)

BACKLOG = 4096
"""Connections that the kernel queues until the server accepts them."""

NO_KEYS = (
    "every call is answered 401: create a key with 'ignite keys create --name NAME', "
    "or start with --no-auth to serve every caller on this machine as an operator"
)


def run_apis(settings: Settings) -> None:
    """Runs the API in one process, or in several processes that share one listening socket."""
    if settings.processes == 1:
        run(settings, run_api(settings))
        return
    with reporting_user_errors(settings), listening_at(settings.host, settings.port) as listening:
        supervise(settings.processes, lambda: run(settings, run_api(settings, listening)))


def listening_at(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


async def run_api(settings: Settings, listening: socket.socket | None = None) -> None:
    require_distributed(settings, "ignite api")
    open_storage(settings)  # Raises for wrong settings before anything else is opened.
    with stop_signals() as stop:
        async with open_backend(settings) as backend, serving(backend, settings, listening) as server:
            say(f"ignite api is ready: {server.addresses}")
            warning = asyncio.create_task(warn(backend, settings.job_deadline), name="warnings")
            try:
                await until(stop, *server.tasks)
            finally:
                warning.cancel()


class ApiServer(uvicorn.Server):
    """uvicorn without its signal handlers, because `stop_signals` handles signals. `task` ends early only if the server
    failed. `grpc`: the gRPC server, None if it is switched off.
    """

    task: asyncio.Task[None]
    grpc: GrpcServer | None = None

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    @property
    def address(self) -> str:
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def addresses(self) -> str:
        """The addresses of the API and of gRPC, for the message at start."""
        return f"{self.address}/v1" + (f" · gRPC {self.grpc.address}" if self.grpc else "")

    @property
    def tasks(self) -> tuple[asyncio.Task[Any], ...]:
        return (self.task, self.grpc.task) if self.grpc else (self.task,)


@asynccontextmanager
async def serving(
    backend: Backend,
    settings: Settings,
    listening: socket.socket | None = None,
    keyless: Keyless = Keyless.NEVER,
) -> AsyncGenerator[ApiServer]:
    """Runs the API, on a new socket or on `listening`. On exit it accepts no more calls and waits for the open ones.
    `keyless` applies if the setting `no_auth` is not set.
    """
    await require_keys(backend, settings, keyless)
    app = create_app(backend, settings, keyless)
    context: ApiContext = app.state.context
    server = ApiServer(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="none",
            http=http_protocol(context.connections, settings.head_limit),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            backlog=BACKLOG,
            timeout_graceful_shutdown=max(1, round(settings.drain)),
        )
    )
    task = server.task = asyncio.create_task(serve(server, listening), name="api")
    try:
        await started(server, task)
        if settings.grpc:
            server.grpc = await start_grpc(context)
        yield server
    finally:
        context.service.draining = True
        log.info("api.draining", grace=settings.drain, next="open calls finish; no new connections are accepted")
        server.should_exit = True
        try:
            if server.grpc:
                await server.grpc.stop(settings.drain)
            await task
        finally:
            await context.service.close()


def http_protocol(connections: Connections, head_limit: int) -> type[asyncio.Protocol]:
    """Returns the factory with which uvicorn creates a connection's protocol."""
    made = functools.partial(BoundedHttpProtocol, connections, head_limit)
    return cast(type[asyncio.Protocol], made)


async def start_grpc(context: ApiContext) -> GrpcServer:
    from producer.rpc.server import GrpcServer  # Imported here: without gRPC its libraries are not loaded.

    server = GrpcServer(context)
    await server.start()
    return server


async def require_keys(backend: Backend, settings: Settings, keyless: Keyless = Keyless.NEVER) -> None:
    """Checks that keys exist. Without keys and without `no_auth`, raises SettingsError off loopback; on loopback the
    API starts with a warning, so that the first key can be created while it runs.
    """
    keyless = keyless_by(settings, keyless)
    if keyless is Keyless.ALWAYS:
        log.warning("auth.off", host=settings.host, next="every call is served without a key, as an operator's")
        return
    if settings.keys or await KeyRepository(backend.documents).any():
        return
    if not settings.on_loopback:
        raise SettingsError(
            f"{settings.host} is not a loopback address, so the API needs keys, and no key exists: "
            "create one with 'ignite keys create --name NAME', set IGNITE_API_KEYS=name=key, or bind to 127.0.0.1."
        )
    if keyless is Keyless.NEVER:
        log.warning("auth.no_keys", next=NO_KEYS)


async def serve(server: ApiServer, listening: socket.socket | None) -> None:
    try:
        await server.serve(None if listening is None else [listening])
    except SystemExit as error:
        # uvicorn raises SystemExit if it cannot bind; its log line names the reason.
        raise OSError(f"cannot listen on {server.config.host}:{server.config.port}") from error


async def started(server: ApiServer, task: asyncio.Task[None]) -> None:
    while not server.started:
        await asyncio.wait([task], timeout=0.01)
        if task.done():
            task.result()
            raise OSError(f"the API did not start on {server.config.host}:{server.config.port}")
