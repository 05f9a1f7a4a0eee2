"""gRPC's server, without the name of a method that stops it.

grpcio decodes the name of a call's method in the task that accepts all calls. A name that is not UTF-8 ends this
task, and the server with it: one HEADERS frame of a stranger is enough. Therefore all methods are registered by name,
and grpcio's core sorts their calls out; all other calls are refused without a look at their names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import grpc
import grpc.aio

# The stubs know nothing of these; pyproject.toml bounds the versions that have them.
cygrpc: Any = import_module("grpc._cython.cygrpc")
aio: Any = import_module("grpc.aio._server")

Methods = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]


def guarded_server(
    services: Mapping[str, Methods], options: Sequence[tuple[str, Any]], most_calls: int
) -> grpc.aio.Server:
    """What `grpc.aio.server` makes, with the methods of `services` and `most_calls` open at a time."""
    logging.getLogger(cygrpc.__name__).addFilter(without_metadata)
    server: Any = aio.Server.__new__(aio.Server)
    server._loop = cygrpc.get_working_loop()
    arguments = aio._augment_channel_arguments(options, None)
    accepting = type("Accepting", (cygrpc.AioServer,), {"_make_request_call_future": next_call})
    server._server = accepting(server._loop, None, [], None, arguments, most_calls)
    for service, methods in services.items():
        server.add_registered_method_handlers(service, dict(methods))
    return server


def without_metadata(record: logging.LogRecord) -> bool:
    """grpcio logs the value of a header that is not UTF-8 as an error: a key would stand in the log."""
    return not str(record.msg).startswith("Invalid encoding on")


def next_call(server: Any, method: bytes | None) -> asyncio.Task[Any]:
    """The next call of a registered method; for None, those of all others, until the server stops."""
    loop = asyncio.get_running_loop()
    return loop.create_task(refuse_others(server) if method is None else server._request_registered_call(method))


async def refuse_others(server: Any) -> None:
    """Answers them with UNIMPLEMENTED."""
    loop, no_methods = asyncio.get_running_loop(), cygrpc._MethodResolver([], {})
    refusals: set[asyncio.Task[None]] = set()
    while True:
        call = await server._request_call()
        handling = cygrpc._handle_rpc("", no_methods, (), call, loop, False)
        refusal = loop.create_task(cygrpc._schedule_rpc_coro(handling, call, loop, ""))
        refusals.add(refusal)
        refusal.add_done_callback(refusals.discard)
