"""Events are complete however the network splits the bytes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.engines.openai.sse import SseDecoder

line = st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=40)
noise = st.sampled_from(["", ": keep-alive\n", "event: message\n", "id: 7\nretry: 10\n"])


def decode(parts: list[bytes]) -> list[bytes]:
    decoder = SseDecoder()
    received = [data for part in parts for data in decoder.feed(part)]
    return received + decoder.rest()


@given(
    events=st.lists(st.tuples(noise, line)),
    newline=st.sampled_from(["\n", "\r\n"]),
    cuts=st.lists(st.integers(min_value=0, max_value=2000)),
)
def test_events_are_complete_however_they_are_split(
    events: list[tuple[str, str]], newline: str, cuts: list[int]
) -> None:
    text = "".join(f"{noise}data: {data}\n\n" for noise, data in events)
    raw = text.replace("\n", newline).encode()
    edges = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    parts = [raw[start:end] for start, end in pairwise(edges)]
    assert decode(parts) == [data.encode() for _, data in events]


@given(data=line)
def test_byte_by_byte(data: str) -> None:
    raw = f"data: {data}\r\n\r\ndata:{data}x\n\n".encode()
    bare = f"{data}x".removeprefix(" ")
    assert decode([bytes([byte]) for byte in raw]) == [data.encode(), bare.encode()]


def test_data_of_several_lines_is_one_text() -> None:
    assert decode([b"data: a\ndata: b\n\n"]) == [b"a\nb"]


def test_events_without_data_are_ignored() -> None:
    assert decode([b": ping\n\nevent: x\n\n\n\ndata: a\n\n"]) == [b"a"]


def test_the_last_event_may_lack_its_blank_line() -> None:
    assert decode([b"data: a\n\nda", b"ta: b"]) == [b"a", b"b"]


def test_a_line_of_many_megabytes_in_small_parts() -> None:
    data = b"x" * 8_000_000
    raw = b"data: " + data + b"\n\n"
    assert decode([raw[start : start + 65536] for start in range(0, len(raw), 65536)]) == [data]
