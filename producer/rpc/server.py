"""The gRPC server's life: bind, serve, drain."""

from __future__ import annotations

import asyncio
import resource

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from producer.http.context import ApiContext
from producer.rpc.calls import ModelService
from producer.rpc.guarded import Methods, guarded_server
from producer.rpc.health import HealthService
from producer.rpc.receiving import WINDOW, StrangersReceiving
from producer.rpc.reflection import reflection_services
from shared.proto.dodil.ignite.v1.model_service_pb2 import DESCRIPTOR, ChatCompletionChunk, ChatCompletionResponse
from shared.settings import Settings

SERVICE = DESCRIPTOR.services_by_name["ModelService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

UNKNOWN_CALLS = 2000
"""Calls beside those that `grpc_calls` counts: whose caller is not known yet, health and reflection."""

PENDING_CALLS = 1000
"""Calls that have come and that no handler has been started for; half of that, and some are refused."""

HANDSHAKE_TIMEOUT_MS = 10_000
"""For a new connection to say that it speaks HTTP/2."""

IDLE_TIMEOUT_MS = 120_000
"""A connection without calls is closed after that; clients open another one when they need it."""

STRANGERS_SLOTS, STRANGERS_TIMEOUT = 4, 2.0
"""Messages of callers without a key that are read at a time, and the seconds that each may take."""

DESCRIPTORS_SHARE = 0.25
"""Of the files that the process may open, what connections of gRPC may take."""

LAST_WORDS = 1.0
"""Seconds for calls that were cut off to hear so."""


class GrpcServer:
    """`task` ends early only if the server died."""

    task: asyncio.Task[bool]

    def __init__(self, context: ApiContext) -> None:
        self._settings = context.settings
        self._calls = ModelService(context)
        names = frozenset({SERVICE, HEALTH, reflection.SERVICE_NAME})
        strangers = StrangersReceiving(slots=STRANGERS_SLOTS, timeout=STRANGERS_TIMEOUT)
        services = {
            SERVICE: methods(self._calls),
            HEALTH: HealthService(context, names, strangers).methods(),
            **reflection_services(sorted(names), strangers),
        }
        most_calls = context.settings.grpc_calls + UNKNOWN_CALLS
        self._server = guarded_server(services, options(context.settings), most_calls)
        self.address = ""

    async def start(self) -> None:
        """Raises OSError if the port cannot be had."""
        host, port = self._settings.host, self._settings.grpc_port
        host = f"[{host}]" if ":" in host else host
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            raise OSError(
                f"cannot listen on {host}:{port} for gRPC: choose another port with --grpc-port, "
                "or do without gRPC with --grpc false"
            ) from None
        self.address = f"{host}:{bound}"
        await self._server.start()
        self.task = asyncio.create_task(self._server.wait_for_termination(), name="grpc")

    async def stop(self, grace: float) -> None:
        """Take no more calls, and let those that are open finish for `grace` seconds."""
        stopping = asyncio.create_task(self._server.stop(grace + LAST_WORDS))
        await self._calls.drain(grace)
        await self._server.stop(LAST_WORDS)
        await stopping
        await self.task


def options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.body_limit),
        # A stranger on the same port would get every second call; processes of one parent are meant to share it.
        ("grpc.so_reuseport", int(settings.processes > 1)),
        # A client that vanished without a word is noticed, and one that asks whether we are there may do so.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        # What a client may hold: connections, calls on each, calls that Python has not seen yet, and of each call that
        # nobody reads one window, which would grow to megabytes where it followed the link's speed.
        ("grpc.max_allowed_incoming_connections", connections_of(settings.grpc_connections)),
        ("grpc.max_concurrent_streams", settings.grpc_streams),
        ("grpc.server.max_pending_requests", PENDING_CALLS // 2),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        ("grpc.max_connection_idle_ms", IDLE_TIMEOUT_MS),
    ]


def connections_of(wanted: int) -> int:
    """As many as are wanted, but never so many that gRPC's clients leave HTTP's without descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, int(soft * DESCRIPTORS_SHARE)))


def methods(calls: ModelService) -> Methods:
    return {
        # One message each way, all the same: these kinds of handlers are called before the message is read.
        "ChatCompletion": grpc.stream_unary_rpc_method_handler(
            calls.chat_completion, None, ChatCompletionResponse.SerializeToString
        ),
        "StreamChatCompletion": grpc.stream_stream_rpc_method_handler(
            calls.stream_chat_completion, None, ChatCompletionChunk.SerializeToString
        ),
    }
