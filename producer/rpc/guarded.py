"""Protects gRPC's server against method names that would stop it.

grpcio decodes a call's method name in the task that accepts all calls. A name that is not UTF-8 ends this task and with
it the server: one HEADERS frame from any client is enough. Therefore all methods are registered by name, so that
grpcio's core selects their calls; all other calls are refused without decoding their names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import grpc
import grpc.aio

# The stubs lack these modules; pyproject.toml bounds the versions that have them.
cygrpc: Any = import_module("grpc._cython.cygrpc")
aio: Any = import_module("grpc.aio._server")

Methods = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]


def guarded_server(
    services: Mapping[str, Methods], options: Sequence[tuple[str, Any]], most_calls: int
) -> grpc.aio.Server:
    """Returns a server like `grpc.aio.server`'s, with the methods of `services` and at most `most_calls` open calls."""
    logging.getLogger(cygrpc.__name__).addFilter(is_wanted)
    server: Any = aio.Server.__new__(aio.Server)
    server._loop = cygrpc.get_working_loop()
    arguments = aio._augment_channel_arguments(options, None)
    accepting = type("Accepting", (cygrpc.AioServer,), {"_make_request_call_future": next_call})
    server._server = accepting(server._loop, None, [], None, arguments, most_calls)
    for service, methods in services.items():
        server.add_registered_method_handlers(service, dict(methods))
    return server


def is_wanted(record: logging.LogRecord) -> bool:
    """Drops grpcio's error about a header that is not UTF-8, which contains the value and so may contain a key, and its
    traceback for an answer to a call that its core has ended meanwhile.
    """
    return not str(record.msg).startswith(("Invalid encoding on", "ExecuteBatchError raised in core"))


def next_call(server: Any, method: bytes | None) -> asyncio.Task[Any]:
    """Waits for the next call of a registered method. `method` None: refuses all other calls until the server stops."""
    loop = asyncio.get_running_loop()
    return loop.create_task(refuse_others(server) if method is None else server._request_registered_call(method))


async def refuse_others(server: Any) -> None:
    """Answers all calls of unregistered methods with UNIMPLEMENTED."""
    loop, no_methods = asyncio.get_running_loop(), cygrpc._MethodResolver([], {})
    refusals: set[asyncio.Task[None]] = set()
    while True:
        call = await server._request_call()
        handling = cygrpc._handle_rpc("", no_methods, (), call, loop, False)
        refusal = loop.create_task(cygrpc._schedule_rpc_coro(handling, call, loop, ""))
        refusals.add(refusal)
        refusal.add_done_callback(refusals.discard)
