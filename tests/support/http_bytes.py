"""HTTP/1.1 requests as bytes, in which every rule of the grammar is broken from time to time."""

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from tests.support.mutations import bodies

TARGETS = (
    *("/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/%ff", "/v1/chat/completions", "/v1/jobs"),
    *("/v1/chat/completions/stream", "/v1/jobs/chatcmpl-0/events", "/v1/files", "/v1/batches", "/docs", "*", ""),
    *("http://x/v1/models", "//v1/models", "/v1/../v1/models", "/v1/jobs?limit=%zz&after=%00", "/?" + "a=b&" * 200),
    *("/v1/models#x", "/\x00", "/é", "/v1/jobs/" + "a" * 5000, "x:80", "/v1/files/../../etc/passwd", "/%2e%2e/%2e%2e"),
)
METHODS = (
    *("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PRI"),
    "get",
    "",
    "G\x00T",
)
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "HTTP/1.", "http/1.1", "HTTX/1.1", "")
NAMES = (
    *("accept", "accept-encoding", "authorization", "connection", "content-encoding", "content-type", "cookie"),
    *("content-length", "expect", "host", "idempotency-key", "if-none-match", "last-event-id", "origin", "prefer"),
    *("range", "referer", "sec-fetch-site", "te", "trailer", "transfer-encoding", "upgrade", "x-forwarded-for"),
    *(
        "x-on-disconnect",
        "x-request-id",
        "x-stainless-retry-count",
        "traceparent",
        "http2-settings",
        "",
        "x y",
        "x\x00",
    ),
)
VALUES = (
    *("", " ", "*", "-1", "0", "1e9", "00", "+5", "5, 5", "99999999999999999999", "0x10", "chunked", "gzip, chunked"),
    *("chunked, chunked", "identity", "close", "keep-alive", "upgrade", "websocket", "h2c", "100-continue", "200-ok"),
    *("application/json", "application/json; charset=utf-16", "multipart/form-data; boundary=", "text/plain"),
    *("respond-async", "wait=9", "bytes=0-", "bytes=-1", "127.0.0.1, evil", "Bearer ", "Basic eDp5", "Bearer \xff"),
    *("a\r\n b", "a\rb", "a\nb: c", "\x7f", "é", "x" * 9000, "null", "http://localhost", "localhost", "[::1"),
)
"""Ambiguous framing headers, which request smuggling uses."""

CHUNK_SIZES = ("{:x}", "{:X}", "0{:x}", "{:x};a=b", "{:x} ", "-{:x}", "0x{:x}", "{:x}0", "", "fffffffffffffffff")


@dataclass(frozen=True)
class Sent:
    """The bytes of one connection, in pieces."""

    pieces: tuple[bytes, ...]


@st.composite
def connections(draw: st.DrawFn, key: str) -> Sent:
    """Draws up to three requests in a row, damaged and cut at any byte."""
    data = b"".join(draw(st.lists(requests(key), min_size=1, max_size=3)))
    if draw(st.booleans()):
        data = draw(damaged(st.just(data)))
    cuts = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=3))})
    return Sent(tuple(data[start:end] for start, end in pairwise(cuts)))


@st.composite
def requests(draw: st.DrawFn, key: str) -> bytes:
    body = draw(st.one_of(st.just(b""), bodies(), st.binary(max_size=60)))
    fields = [("host", "localhost"), ("authorization", f"Bearer {key}"), ("content-type", "application/json")]
    if not draw(st.integers(0, 3)):
        fields.pop(draw(st.integers(0, len(fields) - 1)))
    head_of_body, body = draw(framed(body))
    fields += head_of_body
    fields += draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=3))
    first = " ".join(
        (
            mostly(draw, "POST", METHODS),
            mostly(draw, "/v1/chat/completions", TARGETS),
            mostly(draw, "HTTP/1.1", VERSIONS),
        )
    )
    end = mostly(draw, "\r\n", ("\n", "\r", "\r\r\n"))
    head = end.join((first, *(f"{name}: {value}" for name, value in fields), "", ""))
    return head.encode("latin-1") + body


@st.composite
def framed(draw: st.DrawFn, body: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Draws the headers that frame a body, correct or not, and the body as it is sent."""
    match draw(st.sampled_from(["length", "length", "length", "wrong length", "chunks", "chunks", "both", "neither"])):
        case "length":
            return [("content-length", str(len(body)))], body
        case "wrong length":
            return [("content-length", str(len(body) + draw(st.integers(-3, 3))))], body
        case "chunks":
            return [("transfer-encoding", "chunked")], draw(chunked(body))
        case "both":
            return [("content-length", str(len(body))), ("transfer-encoding", "chunked")], draw(chunked(body))
        case _:
            return [], body


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    size = draw(st.integers(1, 200))
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    said = [mostly(draw, "{:x}", CHUNK_SIZES).format(len(part)).encode() + b"\r\n" + part + b"\r\n" for part in parts]
    return b"".join(said) + draw(st.sampled_from([b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"0\r\n", b""]))


def mostly(draw: st.DrawFn, usual: str, others: tuple[str, ...]) -> str:
    return usual if draw(st.integers(0, 2)) else draw(st.sampled_from(others))


@st.composite
def damaged(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Removes, inserts, changes, repeats or moves a few bytes."""
    data = draw(good)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        piece = data[start:end]
        match draw(st.sampled_from(["remove", "insert", "replace", "repeat", "move", "flip"])):
            case "remove":
                data = data[:start] + data[end:]
            case "insert":
                data = data[:start] + draw(st.binary(max_size=8)) + data[start:]
            case "replace":
                data = data[:start] + draw(st.binary(min_size=len(piece), max_size=len(piece))) + data[end:]
            case "repeat":
                data = data[:start] + piece * draw(st.integers(2, 40)) + data[end:]
            case "move":
                data = piece + data[:start] + data[end:]
            case _:
                data = data[:start] + bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in piece) + data[end:]
    return data
