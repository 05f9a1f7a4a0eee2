"""A gRPC client without generated code: it reads the server's schema by reflection and uses JSON, as grpcurl does."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

SERVICE = "dodil.ignite.v1.ModelService"


def reflected(address: str) -> DescriptorPool:
    """Reads the server's schema by reflection. Blocks, so call it in a thread."""
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        pool.FindServiceByName(SERVICE)
        return pool


class GrpcClient:
    def __init__(self, channel: grpc.aio.Channel, pool: DescriptorPool) -> None:
        self.channel = channel
        self._methods = pool.FindServiceByName(SERVICE).methods_by_name

    def message(self, body: Mapping[str, Any] | str) -> Message:
        """Builds the request from JSON. Unknown fields are an error."""
        kind = GetMessageClass(self._methods["ChatCompletion"].input_type)
        text = body if isinstance(body, str) else json_format.json.dumps(body)
        return json_format.Parse(text, kind())

    def unary(self, body: Mapping[str, Any] | str | Message, **options: Any) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        return self._call(self.channel.unary_unary, "ChatCompletion", body, options)

    def stream(self, body: Mapping[str, Any] | str | Message, **options: Any) -> grpc.aio.UnaryStreamCall[Any, Any]:
        return self._call(self.channel.unary_stream, "StreamChatCompletion", body, options)

    def _call(self, kind: Any, name: str, body: Any, options: dict[str, Any]) -> Any:
        method = self._methods[name]
        multi_callable = kind(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        metadata = tuple(options.pop("metadata", {}).items())
        return multi_callable(
            body if isinstance(body, Message) else self.message(body), metadata=metadata, wait_for_ready=True, **options
        )

    async def answer(self, body: Mapping[str, Any] | str, **options: Any) -> dict[str, Any]:
        return as_json(await self.unary(body, **options))

    async def chunks(self, body: Mapping[str, Any] | str, **options: Any) -> list[dict[str, Any]]:
        return [as_json(message) async for message in self.stream(body, **options)]


def as_json(message: Message) -> dict[str, Any]:
    """Returns the message as JSON, with the names of the schema."""
    return json_format.MessageToDict(message)


@asynccontextmanager
async def grpc_client(address: str) -> AsyncGenerator[GrpcClient]:
    pool = await asyncio.to_thread(reflected, address)
    async with grpc.aio.insecure_channel(address) as channel:
        yield GrpcClient(channel, pool)


class Refusal:
    """The failure of a call: its code, the details of its status, and the messages before it."""

    def __init__(self, error: grpc.aio.AioRpcError, said: list[dict[str, Any]]) -> None:
        self.said = said
        self.code = error.code()
        self.message = error.details()
        self.metadata = dict(error.trailing_metadata() or ())
        self.status: Status | None = rpc_status.from_call(error)  # type: ignore[arg-type]

    @property
    def error(self) -> dict[str, str]:
        """The JSON error in ErrorInfo."""
        info = self._detail(ErrorInfo)
        assert info is not None, self.status
        assert (info.reason, info.domain) == (info.metadata["code"], "dodil.ignite.v1")
        assert info.metadata["message"] == self.message
        return dict(info.metadata)

    @property
    def retry_after(self) -> int | None:
        info = self._detail(RetryInfo)
        return None if info is None else info.retry_delay.seconds

    def _detail(self, kind: type[Any]) -> Any:
        assert self.status is not None, (self.code, self.message)
        for packed in self.status.details:
            detail = kind()
            if packed.Unpack(detail):
                return detail
        return None


async def refused(call: Any) -> Refusal:
    """Returns the failure of a call. A call that succeeds fails the test."""
    said: list[dict[str, Any]] = []
    try:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            async for message in call:
                said.append(as_json(message))
        else:
            said.append(as_json(await call))
    except grpc.aio.AioRpcError as error:
        return Refusal(error, said)
    raise AssertionError(f"not refused: {said}")
