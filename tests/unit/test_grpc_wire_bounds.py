"""What a message over gRPC consists of is counted before anything is built from it."""

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from hypothesis import given

from producer.rpc import wire_bounds
from producer.rpc.calls import BOUNDS, read
from producer.rpc.wire_bounds import LIGHT_VALUES, MessageBounds
from shared.errors import IgniteError, InvalidRequest
from shared.proto.dodil.ignite.v1.model_service_pb2 import ChatCompletionRequest
from shared.schema import HEAVY_BYTES, UNCOUNTED
from tests.unit.test_grpc_messages import bodies

MEGABYTES = 2_000_000


def sized(data: bytes) -> bytes:
    length, size = b"", len(data)
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return length + bytes([size]) + data


EMPTY_LISTS = b"\x52" + sized(b"\x32" + sized(b"\x0a\x02\x32\x00" * (MEGABYTES // 4)))
"""`stop`: a list of half a million empty lists."""

ATTACKS = {
    "messages": b"\x12\x00" * (MEGABYTES // 2),
    "tool calls": b"\x12" + sized(b"\x22\x00" * (MEGABYTES // 2)),
    "lists": EMPTY_LISTS,
    "nulls": b"\x52" + sized(b"\x32" + sized(b"\x0a\x00" * (MEGABYTES // 2))),
    "names": b"".join(b"\xf2\x01" + sized(b"\x0a" + sized(b"%06d" % number)) for number in range(210_000)),
    "texts": b"\xba\x01\x00" * (MEGABYTES // 3),
    "behind a group": b"\xf3\x3f\xf4\x3f" + EMPTY_LISTS,
    "in a group": b"\xf3\x3f" + b"\x12\x05\xff\xff" + b"\xf4\x3f" + EMPTY_LISTS,
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_message_of_too_much_is_refused_before_it_is_parsed(attack: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.rpc.calls.body_of", lambda _: pytest.fail("it was parsed"))
    assert BOUNDS.is_heavy(attack)
    with pytest.raises(InvalidRequest, match=r"more than|is not a ChatCompletionRequest"):
        read(attack, 20_000_000, mode="unary", named=None)


@pytest.mark.parametrize("cut", [1, 3, 7, 1000])
def test_a_message_that_is_cut_off_is_none(cut: int) -> None:
    with pytest.raises(IgniteError):
        read((b"\x12" + sized(b"\x0a" + sized(b"x" * 2 * UNCOUNTED)))[:-cut], 20_000_000, mode="unary", named=None)


def test_a_long_text_is_one_value_and_a_long_chat_is_allowed() -> None:
    text = ChatCompletionRequest(model="m", messages=[{"role": "user", "content": Value(string_value="x" * MEGABYTES)}])
    body, request, _ = read(text.SerializeToString(), 20_000_000, mode="unary", named=None)
    assert len(body) > MEGABYTES
    assert len(request.messages) == 1
    turns = [{"role": "user", "content": Value(string_value="x" * 100)}] * 2000
    chat = ChatCompletionRequest(model="m", messages=turns)
    assert len(read(chat.SerializeToString(), 20_000_000, mode="unary", named=None)[1].messages) == 2000


def test_large_messages_are_read_beside_the_event_loop() -> None:
    assert BOUNDS.is_heavy(b"\x0a" + sized(b"x" * (HEAVY_BYTES + 1)))
    assert BOUNDS.is_heavy(b"\x12\x00" * (LIGHT_VALUES + 1))
    assert not BOUNDS.is_heavy(b"\x12\x00" * (LIGHT_VALUES // 2))


@given(bodies(ChatCompletionRequest.DESCRIPTOR))
def test_any_message_is_counted_whole(fields: dict[str, object]) -> None:
    """The walk comes to the end of whatever protobuf writes."""
    data = json_format.ParseDict(fields, ChatCompletionRequest(), ignore_unknown_fields=True).SerializeToString()
    census = wire_bounds.Census()
    MessageBounds(ChatCompletionRequest.DESCRIPTOR)._count(data, census, 10**9)
    assert census.values >= len([value for value in fields.values() if value is not None and value not in ([], {})])
