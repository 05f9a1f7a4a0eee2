"""uvicorn's HTTP protocol with limits on bytes and time, and with one system call less per answer.

A head's bytes are counted before they are parsed, because the parser copies the head again with every piece.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from producer.http.connection import refusals
from producer.http.connection.answers import closing_where_unread, without_chunks
from producer.http.connection.limits import Connections, address_of
from producer.http.connection.refusals import Refusal, Refused
from producer.http.connection.transport import HOLD_ANSWER, HeadHolder, bound_kernel_buffer
from producer.http.paths import with_path

WRITE_BUFFER = 4 * 1024
"""Bytes. Above this many unsent bytes the server waits for the client to read."""

DRAIN_LIMIT = 32 * 1024 * 1024
"""Bytes of a body that are read and dropped after its answer, so that the client gets to read the answer."""

LINGER = 5.0
"""Seconds for which a client may continue to send after the last answer."""

OVERHEAD_LIMIT = 64 * 1024
OVERHEAD_OF_CHUNK = 16
"""Bytes of chunk sizes, extensions and trailers in a chunked body: in total, plus an allowance per chunk."""

PIPELINE_LIMIT = 128
"""Requests that may wait for the answers to earlier ones of their connection."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """The protocol of one connection."""

    def __init__(self, connections: Connections, head_limit: int, **given: Any) -> None:
        super().__init__(**given)
        self.address = ""
        self._connections = connections
        self._head_limit = head_limit
        self._in_head = True
        self._heads = 0
        self._head_bytes = 0
        self._header_bytes = 0
        self._body_fed = self._body_bytes = self._body_pieces = 0
        self._dropped = 0
        self._dropping = False
        """Bytes that still arrive are dropped."""
        self._lost = False

    # ── the connection ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plain = cast(asyncio.Transport, transport)
        super().connection_made(cast(asyncio.Transport, HeadHolder(plain, self.loop, self._lingers)))
        plain.set_write_buffer_limits(high=WRITE_BUFFER)
        self.address = address_of(self.client[0] if self.client else None)
        bound_kernel_buffer(plain)
        descriptor = plain.get_extra_info("socket").fileno()
        if not self._connections.admit(self, descriptor):
            if self._connections.over_refusal_limit(self.address, descriptor):
                plain.abort()
            else:
                self._refuse(refusals.NO_ROOM)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._connections.forget(self)
        super().connection_lost(exc)

    def cut(self, reason: str) -> None:
        if self._lost:
            return
        late = {"head_timeout": refusals.HEAD_LATE, "body_timeout": refusals.BODY_LATE}.get(reason)
        if late is not None and not self._dropping and (self._head_bytes or not self._in_head):
            self._refuse(late)
        elif reason == "idle":
            self.transport.close()
        else:
            self.transport.abort()

    @property
    def _has_request(self) -> bool:
        """Whether a request of this connection has been passed to the application."""
        return bool(self.cycle)

    def is_reading(self) -> bool:
        waits = self._has_request and self.cycle.waiting_for_100_continue
        return not (self.flow.read_paused or waits)

    def unsent(self) -> int:
        """Includes the kernel's buffer, which accepts more bytes only after the client has read many."""
        try:
            queued = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            queued = bytes(4)
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._connections.await_client_read(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connections.client_has_read(self)

    def shutdown(self) -> None:
        if self._dropping and self.transport.is_closing():
            self.transport.abort()
        else:
            super().shutdown()

    def _lingers(self) -> bool:
        """Whether to close only the sending half: a client that is still sending would lose the answer otherwise."""
        unread = self._dropping or not self._in_head
        self._dropping = True
        if self._lost or not unread:
            self._connections.await_close(self)
            return False
        self._dropped = 0
        self.flow.resume_reading()
        self.transport.write_eof()
        self._connections.await_close(self, LINGER)
        return True

    def hold_answer(self) -> None:
        """Delays the answer of the current request, which is the connection's last one."""
        self._dropping = True
        self.pipeline.clear()
        self._connections.body_complete(self)
        cast(HeadHolder, self.transport).hold(self._connections.hold(self))

    # ── received bytes ──

    def data_received(self, data: bytes) -> None:
        while data and not self._dropping:
            room = self._head_limit - self._head_bytes
            if not self._in_head or len(data) <= room:
                piece, data = data, b""
            else:
                piece, data = data[:room], data[room:]
            self._feed(piece)
        if self._dropping:
            self._drop(len(data))
        elif not self._in_head:
            self._connections.await_body(self, len(data))
        elif self._head_bytes and not (self._has_request and not self.cycle.response_complete):
            self._connections.await_head(self)

    def _feed(self, piece: bytes) -> None:
        heads, in_head = self._heads, self._in_head
        rest = piece
        while rest:
            try:
                self.parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                self._stay_with_http1()
            except httptools.HttpParserError as error:
                cause = error.__context__
                reason = "its target or its headers cannot be read" if cause is not None else str(error)
                refusal = cause.refusal if isinstance(cause, Refused) else refusals.not_http(piece, reason.rstrip("."))
                self._refuse(refusal)
                return
        if self._dropping:
            return
        if self._in_head:
            self._head_bytes = self._head_bytes + len(piece) if in_head and heads == self._heads else 0
            if self._head_bytes >= self._head_limit:
                self._refuse(refusals.head_too_large(self._head_limit))
        elif not in_head and heads == self._heads:  # A piece with another request's head counts for neither body.
            self._body_fed += len(piece)
            overhead = self._body_fed - self._body_bytes - OVERHEAD_OF_CHUNK * self._body_pieces
            if overhead > OVERHEAD_LIMIT:
                self._refuse(refusals.CHUNKS_TOO_LARGE)

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > DRAIN_LIMIT:
            self.transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        """Sends a refusal and stops reading. Sends nothing if the client would mistake it for another answer."""
        self._dropping = True
        self.pipeline.clear()
        cycle = self.cycle
        if self._has_request and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False  # Its request is complete: the connection closes after its answer.
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
                return
        if refusal is not refusals.NO_ROOM:
            self._connections.note(refusal.code)
        self.transport.write(refusal.answer(self.server_state.default_headers))
        self.transport.close()

    # ── the parser's callbacks ──

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > refusals.URL_LIMIT:
            raise Refused(refusals.URL_TOO_LONG)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # Trailers are ignored.
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > self._head_limit:
            raise Refused(refusals.head_too_large(self._head_limit))
        if len(self.headers) >= refusals.HEADER_LIMIT:
            raise Refused(refusals.TOO_MANY_HEADERS)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._connections.head_complete(self)
        version = self.parser.get_http_version()
        refusal = refusals.refusal_of_head(self.parser.get_method(), version, self.headers)
        if refusal is None and len(self.pipeline) >= PIPELINE_LIMIT:
            refusal = refusals.PIPELINED_TOO_MUCH
        if refusal is not None:
            raise Refused(refusal)
        if version == "1.0":
            self.expect_100_continue = False
        if not self.url.startswith(b"/"):
            self.url = with_path(self.url)
        super().on_headers_complete()
        self._in_head = False
        self._heads += 1
        self._head_bytes = 0
        self._body_fed = self._body_bytes = self._body_pieces = self._dropped = 0

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        self._body_bytes += len(body)
        self._body_pieces += 1
        if cycle.response_complete:
            self._drop(len(body))
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._framing():
            return  # ContinuedParser reads the body (see _stay_with_http1).
        self.end_message()

    def end_message(self) -> None:
        self._in_head = True
        self._connections.body_complete(self)
        cycle = self.cycle
        if cycle.response_complete:
            self._connections.await_request(self)
            return
        cycle.more_body = False
        cycle.message_event.set()

    def _framing(self) -> list[tuple[bytes, bytes]]:
        return [pair for pair in self.headers if pair[0] in (b"content-length", b"transfer-encoding")]

    def _stay_with_http1(self) -> None:
        """Ignores an Upgrade. The parser stops there, before the body: a new parser gets the body's framing headers
        and continues.
        """
        framing = self._framing()
        callbacks = ContinuedParser(self, in_body=bool(framing))
        self.parser = httptools.HttpRequestParser(callbacks)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if framing:
            lines = b"".join(b"%s: %s\r\n" % pair for pair in framing)
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + lines + b"\r\n")

    # ── answers ──

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cast(dict[str, Any], cycle.scope).setdefault("extensions", {})[HOLD_ANSWER] = self.hold_answer
        if cycle.waiting_for_100_continue:
            app = closing_where_unread(app, cycle)
        if cycle.scope["http_version"] == "1.0":
            app = without_chunks(app, cycle)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self._dropping:
            self.transport.close()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._in_head:
            self._connections.await_request(self)


class ContinuedParser:
    """Callbacks of the parser that continues after an Upgrade. Hides the head that the parser was given."""

    def __init__(self, protocol: BoundedHttpProtocol, *, in_body: bool) -> None:
        self._protocol = protocol
        self._in_body = in_body

    def on_message_begin(self) -> None:
        if not self._in_body:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._in_body:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._in_body:
            self._protocol.on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._protocol.on_body(body)

    def on_message_complete(self) -> None:
        if self._in_body:
            self._in_body = False
            self._protocol.end_message()
        else:
            self._protocol.on_message_complete()
