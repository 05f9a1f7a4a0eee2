"""Reflection, for callers without a key: what it reads of them is bounded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

from producer.rpc.guarded import Methods
from producer.rpc.receiving import StrangersReceiving
from shared.errors import IgniteError

Request = reflection_pb2.ServerReflectionRequest
Response = reflection_pb2.ServerReflectionResponse
Context = grpc.aio.ServicerContext[Any, Any]

NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Version 1 is v1alpha's messages under another name; clients ask for it first, and some for nothing else."""


def reflection_services(services: list[str], strangers: StrangersReceiving) -> dict[str, Methods]:
    servicer = cast(Any, reflection).aio.ReflectionServicer(services)  # The stubs have left it out.

    async def info(requests: AsyncIterator[Request], context: Context) -> AsyncGenerator[Response]:
        try:
            while (request := await strangers.next(requests)) is not None:
                async for response in servicer.ServerReflectionInfo(alone(request), context):
                    yield response
        except IgniteError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)

    method = grpc.stream_stream_rpc_method_handler(info, Request.FromString, Response.SerializeToString)
    return {name: {"ServerReflectionInfo": method} for name in NAMES}


async def alone(request: Request) -> AsyncGenerator[Request]:
    yield request
