"""The gRPC server's life: bind, serve, drain."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from producer.dependencies import Doors
from producer.grpc_door.calls import ModelService, received
from producer.grpc_door.health import HealthService
from shared.proto.dodil.ignite.v1.model_service_pb2 import DESCRIPTOR, ChatCompletionChunk, ChatCompletionResponse
from shared.settings import Settings

SERVICE = DESCRIPTOR.services_by_name["ModelService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

LAST_WORDS = 1.0
"""Seconds for calls that were cut off to hear so."""


class GrpcServer:
    """`task` ends early only if the server died."""

    task: asyncio.Task[bool]

    def __init__(self, doors: Doors) -> None:
        self._settings = doors.settings
        self._calls = ModelService(doors)
        self._server = grpc.aio.server(options=options(doors.settings))
        self._server.add_generic_rpc_handlers((handlers(self._calls),))
        services = frozenset({SERVICE, HEALTH, reflection.SERVICE_NAME})
        health_pb2_grpc.add_HealthServicer_to_server(HealthService(doors, services), self._server)
        reflection.enable_server_reflection(sorted(services), self._server)
        self._server.add_generic_rpc_handlers((newer_reflection(sorted(services)),))
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
    ]


def newer_reflection(services: list[str]) -> grpc.GenericRpcHandler:
    """Version 1 is v1alpha's messages under another name; clients ask for it first, and some for nothing else."""
    servicer = cast(Any, reflection).aio.ReflectionServicer(services)  # The stubs have left it out.
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("grpc.reflection.v1.ServerReflection", {"ServerReflectionInfo": method})


def handlers(calls: ModelService) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "ChatCompletion": grpc.unary_unary_rpc_method_handler(
                calls.chat_completion, received, ChatCompletionResponse.SerializeToString
            ),
            "StreamChatCompletion": grpc.unary_stream_rpc_method_handler(
                calls.stream_chat_completion, received, ChatCompletionChunk.SerializeToString
            ),
        },
    )
