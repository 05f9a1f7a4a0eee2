"""Runs the gRPC server: binds, serves, drains."""

from __future__ import annotations

import asyncio
import resource

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from producer.http.context import ApiContext
from producer.rpc.calls import ModelService
from producer.rpc.connection_guard import ConnectionGuard
from producer.rpc.guarded import Methods, guarded_server
from producer.rpc.health import HealthService
from producer.rpc.receiving import WINDOW, UnauthenticatedReceiving
from producer.rpc.reflection import reflection_services
from shared.proto.dodil.ignite.v1.model_service_pb2 import DESCRIPTOR, ChatCompletionChunk, ChatCompletionResponse
from shared.settings import Settings

SERVICE = DESCRIPTOR.services_by_name["ModelService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

UNKNOWN_CALLS = 2000
"""Calls in addition to `grpc_calls`: not yet authenticated ones, health and reflection."""

PENDING_CALLS = 1000
"""Limit of calls without a started handler. Above half of it, gRPC refuses some."""

HANDSHAKE_TIMEOUT_MS = 10_000
"""Milliseconds for a new connection's HTTP/2 handshake."""

IDLE_TIMEOUT_MS = 120_000
"""Milliseconds after which a connection without calls is closed; clients reconnect when they need to."""

UNAUTHENTICATED_SLOTS, UNAUTHENTICATED_TIMEOUT = 4, 2.0
"""Messages of clients without a key that are read at a time, and the seconds that each may take."""

DESCRIPTORS_SHARE = 0.25
"""The share of the process's file descriptors that gRPC connections may use."""

CUT_OFF_GRACE = 1.0
"""Seconds in which calls that were cut off receive their status."""


class GrpcServer:
    """The gRPC server. `task` ends before `stop` only if the server failed."""

    task: asyncio.Task[bool]
    _guarding: asyncio.Task[None]

    def __init__(self, context: ApiContext) -> None:
        self._settings = context.settings
        self._calls = ModelService(context)
        names = frozenset({SERVICE, HEALTH, reflection.SERVICE_NAME})
        receiving = UnauthenticatedReceiving(slots=UNAUTHENTICATED_SLOTS, timeout=UNAUTHENTICATED_TIMEOUT)
        services = {
            SERVICE: methods(self._calls),
            HEALTH: HealthService(context, names, receiving).methods(),
            **reflection_services(sorted(names), receiving),
        }
        most_calls = context.settings.grpc_calls + UNKNOWN_CALLS
        self._server = guarded_server(services, options(context.settings), most_calls)
        self.address = ""

    async def start(self) -> None:
        """Binds the port and starts to serve. Raises OSError if the port is not available."""
        host, port = self._settings.host, self._settings.grpc_port
        host = f"[{host}]" if ":" in host else host
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            raise OSError(
                f"cannot listen on {host}:{port} for gRPC: choose another port with --grpc-port, "
                "or disable gRPC with --grpc false"
            ) from None
        self.address = f"{host}:{bound}"
        await self._server.start()
        self.task = asyncio.create_task(self._server.wait_for_termination(), name="grpc")
        limit = connections_of(self._settings.grpc_connections) // 2
        guard = ConnectionGuard(bound, max(1, min(self._settings.grpc_address_connections, limit)))
        self._guarding = asyncio.create_task(guard.run(), name="grpc connections")

    async def stop(self, grace: float) -> None:
        """Refuses new calls and waits up to `grace` seconds for the open ones."""
        stopping = asyncio.create_task(self._server.stop(grace + CUT_OFF_GRACE))
        await self._calls.drain(grace)
        await self._server.stop(CUT_OFF_GRACE)
        await stopping
        await self.task
        self._guarding.cancel()
        await asyncio.gather(self._guarding, return_exceptions=True)


def options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.body_limit),
        # Another program on the same port would get every second call; only processes of one parent share it.
        ("grpc.so_reuseport", int(settings.processes > 1)),
        # Detects clients that vanished without closing, and allows the clients' own pings.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        # Limits of connections, of calls on each, of calls that have no handler yet, and of the buffer of unread calls:
        # one window, which would grow to megabytes if gRPC adapted it to the link's speed (bdp_probe).
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
    """Returns the limit of connections: `wanted`, but at most gRPC's share of the process's file descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, int(soft * DESCRIPTORS_SHARE)))


def methods(calls: ModelService) -> Methods:
    return {
        # Stream handlers although there is one message: grpcio calls these before it reads the message.
        "ChatCompletion": grpc.stream_unary_rpc_method_handler(
            calls.chat_completion, None, ChatCompletionResponse.SerializeToString
        ),
        "StreamChatCompletion": grpc.stream_stream_rpc_method_handler(
            calls.stream_chat_completion, None, ChatCompletionChunk.SerializeToString
        ),
    }
