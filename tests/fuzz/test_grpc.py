"""Whatever bytes come over gRPC, a call ends with an answer or a status that blames the client."""

import asyncio
import struct
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from shared.proto.dodil.ignite.v1.model_service_pb2 import ChatCompletionRequest
from tests.fuzz.target import HANG, KEY, Target
from tests.producer.grpc.corpus import CORPUS
from tests.support.fuzz import examples
from tests.support.grpc_client import SERVICE
from tests.support.http_bytes import Sent, damaged
from tests.support.mutations import calm
from tests.support.raw_http2 import FRAME_HEAD, HEADERS, PREFACE, SETTINGS, literal

pytestmark = pytest.mark.asyncio(loop_scope="session")

Code = grpc.StatusCode
BLAMES_THE_CLIENT = (
    *(Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED),
    *(Code.UNIMPLEMENTED, Code.OUT_OF_RANGE, Code.FAILED_PRECONDITION, Code.DEADLINE_EXCEEDED, Code.CANCELLED),
)
MESSAGES = [
    json_format.ParseDict(calm(body | {"model": "simulated"}), ChatCompletionRequest()).SerializeToString()
    for body in CORPUS.values()
]
METADATA = st.dictionaries(
    st.sampled_from(["authorization", "x-request-id", "idempotency-key", "prefer", "origin", "x-bin", "grpc-tags-bin"]),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20),
    max_size=2,
)
METHODS = ("ChatCompletion", "ChatCompletion", "StreamChatCompletion", "Nothing")


async def outcome(call: Any) -> grpc.StatusCode:
    try:
        async with asyncio.timeout(HANG):
            async for _ in call:
                pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


@examples(60)
@given(
    message=st.one_of(damaged(st.sampled_from(MESSAGES)), st.sampled_from(MESSAGES), st.binary(max_size=60)),
    method=st.sampled_from(METHODS),
    metadata=METADATA,
)
async def test_messages(target: Target, message: bytes, method: str, metadata: dict[str, str]) -> None:
    sent = {"authorization": f"Bearer {KEY}", **metadata}
    headers = [(name, value.encode() if name.endswith("-bin") else value) for name, value in sent.items()]
    call = target.channel.unary_stream(f"/{SERVICE}/{method}")
    code = await outcome(call(message, metadata=headers))
    assert code is Code.OK or code in BLAMES_THE_CLIENT, code
    await target.assert_well()


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One of HTTP/2's frames, most often of a kind that it has, on a stream that may be open."""
    kind, flags = draw(st.integers(0, 10)), draw(st.sampled_from([0, 1, 4, 5, 8, 0x20, 0xFF]))
    stream = draw(st.sampled_from([0, 1, 3, 3, 5, 2, 2**31 - 1]))
    payload = draw(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(MESSAGES).map(lambda data: struct.pack("!BI", 0, len(data)) + data),
            st.sampled_from([b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\x00" * 6, b"\x00" * 8]),
        )
    )
    length = len(payload) + draw(st.sampled_from([0, 0, 0, 0, -1, 1, 2**20]))
    length = max(0, length)
    return FRAME_HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def call_head(stream: int) -> bytes:
    fields = (
        *((":method", "POST"), (":scheme", "http"), (":path", f"/{SERVICE}/ChatCompletion"), (":authority", "x")),
        *(("te", "trailers"), ("content-type", "application/grpc"), ("authorization", f"Bearer {KEY}")),
    )
    block = b"".join(literal(*field) for field in fields)
    return FRAME_HEAD.pack(len(block) >> 8, len(block) & 0xFF, HEADERS, 4, stream) + block


@examples(20)
@given(heads=st.integers(0, 3), sent=st.lists(frames(), max_size=8), damage=st.data())
async def test_frames(target: Target, heads: int, sent: list[bytes], damage: st.DataObject) -> None:
    data = FRAME_HEAD.pack(0, 0, SETTINGS, 0, 0) + b"".join(call_head(1 + 2 * each) for each in range(heads))
    data += b"".join(sent)
    if damage.draw(st.booleans()):
        data = damage.draw(damaged(st.just(data)))
    await target.send(Sent((PREFACE + data,)), address=target.grpc_address)
    await target.assert_well()
