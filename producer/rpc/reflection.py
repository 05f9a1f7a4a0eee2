"""The reflection service, for clients without a key; the messages that it reads are bounded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

from producer.rpc.guarded import Methods
from producer.rpc.receiving import UnauthenticatedReceiving
from shared.errors import IgniteError

Request = reflection_pb2.ServerReflectionRequest
Response = reflection_pb2.ServerReflectionResponse
Context = grpc.aio.ServicerContext[Any, Any]

NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Version 1 has the same messages as v1alpha. Clients try it first, and some only it."""


def reflection_services(services: list[str], receiving: UnauthenticatedReceiving) -> dict[str, Methods]:
    servicer = cast(Any, reflection).aio.ReflectionServicer(services)  # The stubs lack it.

    async def info(requests: AsyncIterator[Request], context: Context) -> AsyncGenerator[Response]:
        try:
            while (request := await receiving.next(requests)) is not None:
                async for response in servicer.ServerReflectionInfo(single(request), context):
                    yield response
        except IgniteError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)

    method = grpc.stream_stream_rpc_method_handler(info, Request.FromString, Response.SerializeToString)
    return {name: {"ServerReflectionInfo": method} for name in NAMES}


async def single(request: Request) -> AsyncGenerator[Request]:
    yield request
