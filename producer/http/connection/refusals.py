"""Refusals at the protocol level, before a request reaches the application, with OpenAI's error object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import orjson

URL_LIMIT = 32 * 1024
"""Bytes of a request's target."""

HEADER_LIMIT = 256
"""Number of headers of a request."""


@dataclass(frozen=True)
class Refusal:
    status: int
    code: str
    message: str
    retry_after: int | None = None

    def answer(self, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        body = orjson.dumps({"error": error})
        head = [b"HTTP/1.1 %d %s" % (self.status, HTTPStatus(self.status).phrase.encode())]
        head += [b"%s: %s" % pair for pair in default_headers]
        head += [b"content-type: application/json", b"content-length: %d" % len(body), b"connection: close"]
        if self.retry_after is not None:
            head.append(b"retry-after: %d" % self.retry_after)
        return b"\r\n".join((*head, b"", body))


class Refused(Exception):
    """Raised in the parser's callbacks."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


NO_ROOM = Refusal(
    503, "too_many_connections", "The server has too many open connections; try again soon.", retry_after=2
)
HEAD_LATE = Refusal(408, "request_timeout", "The request's head did not arrive in time.")
BODY_LATE = Refusal(408, "request_timeout", "The request's body did not arrive in time.")
URL_TOO_LONG = Refusal(414, "url_too_long", f"The request's URL is longer than {URL_LIMIT:,} bytes.")
TOO_MANY_HEADERS = Refusal(431, "headers_too_large", f"The request has more than {HEADER_LIMIT} headers.")
CHUNKS_TOO_LARGE = Refusal(
    400, "invalid_http", "The body's chunk extensions or trailers are too large; send the body without them."
)
PIPELINED_TOO_MUCH = Refusal(
    400, "invalid_http", "Too many pipelined requests: read the answers before you send more requests."
)
NEEDS_ONE_HOST = Refusal(400, "invalid_http", "An HTTP/1.1 request needs exactly one Host header.")
NO_SUCH_VERSION = Refusal(505, "invalid_http", "Unknown HTTP version: this server supports HTTP/1.1 and HTTP/1.0.")
NO_TUNNELS = Refusal(405, "method_not_allowed", "CONNECT is not allowed: this server is not a proxy.")
ONLY_CHUNKED = Refusal(501, "invalid_http", "The only supported Transfer-Encoding is 'chunked', over HTTP/1.1.")


def head_too_large(limit: int) -> Refusal:
    return Refusal(431, "headers_too_large", f"The request's head is larger than {limit:,} bytes.")


def not_http(data: bytes, reason: str) -> Refusal:
    if data.startswith(b"\x16\x03"):
        return Refusal(400, "invalid_http", "This port speaks plain HTTP, and the client began TLS: use http://.")
    return Refusal(400, "invalid_http", f"The request is not valid HTTP/1.1: {reason}.")


def refusal_of_head(method: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
    """Returns the refusal of a well-formed head that cannot be served, else None."""
    if version not in ("1.1", "1.0"):
        return NO_SUCH_VERSION
    if method == b"CONNECT":
        return NO_TUNNELS
    hosts = encodings = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            encodings += 1 if value.strip().lower() == b"chunked" and version == "1.1" else 2
    if encodings > 1:
        return ONLY_CHUNKED
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        return NEEDS_ONE_HOST
    return None
