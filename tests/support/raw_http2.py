"""An HTTP/2 client that sends single frames, so that a test can stop in the middle of a message."""

import asyncio
import struct
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
ACK, END_HEADERS = 0x1, 0x4
FRAME_HEAD = struct.Struct("!HBBBI")
INITIAL_WINDOW = 65_535
LARGEST_FRAME = 16_384
INITIAL_WINDOW_SIZE = 0x4
STALLED = 0.5


class RawHttp2:
    """One connection. It obeys flow control, because the server would otherwise discard its bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next_stream = 1
        self._initial_window = INITIAL_WINDOW
        self._windows: dict[int, int] = {0: INITIAL_WINDOW}
        self._changed = asyncio.Event()
        self.ended: set[int] = set()
        """The streams that the server has ended."""
        self.closed = False
        self._reading = asyncio.create_task(self._read())

    async def open_call(self, path: str, metadata: Mapping[str, str] | None = None) -> int:
        """Sends a request head, and returns the number of its new stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        head = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
            **(metadata or {}),
        }
        self._windows[stream] = self._initial_window
        await self._send(HEADERS, END_HEADERS, stream, b"".join(literal(*field) for field in head.items()))
        return stream

    async def send_message_part(self, stream: int, *, announced: int, sent: int) -> int:
        """Announces a message of `size` bytes and sends as much of it as `sent` and the server's windows allow. Returns
        the number of sent bytes, which is lower if the server ends the stream or opens no window for STALLED seconds.
        """
        return await self._send_data(stream, struct.pack("!BI", 0, announced) + b"\x0a" * sent)

    async def send_compressed(self, stream: int, message: bytes) -> None:
        """Sends a message that is marked as compressed, as far as the server takes it."""
        await self._send_data(stream, struct.pack("!BI", 1, len(message)) + message)

    async def reset(self, stream: int, code: bytes) -> None:
        await self._send(RST_STREAM, 0, stream, code)

    async def _send_data(self, stream: int, left: bytes) -> int:
        gone = 0
        while left and not self._is_over(stream):
            size = min(len(left), LARGEST_FRAME, self._windows[0], self._windows[stream])
            if size <= 0:
                if not await self._window_grew():
                    break
                continue
            await self._send(DATA, 0, stream, left[:size])
            self._windows[0] -= size
            self._windows[stream] -= size
            gone, left = gone + size, left[size:]
        return gone

    async def wait_closed(self) -> None:
        await self._reading

    def abort(self) -> None:
        self._reading.cancel()
        self._writer.transport.abort()

    def _is_over(self, stream: int) -> bool:
        return self.closed or stream in self.ended

    async def _window_grew(self) -> bool:
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), STALLED)
        except TimeoutError:
            return False
        return True

    async def _send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        size = len(payload)
        head = FRAME_HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream)
        if self._writer.is_closing():
            return
        with suppress(ConnectionError):
            self._writer.write(head + payload)
            await self._writer.drain()

    async def _read(self) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                high, low, kind, flags, stream = FRAME_HEAD.unpack(await self._reader.readexactly(FRAME_HEAD.size))
                await self._take(kind, flags, stream & 0x7FFFFFFF, await self._reader.readexactly(high << 8 | low))
        self.closed = True
        self._changed.set()

    async def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._take_settings(payload)
            await self._send(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK:
            await self._send(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE:
            self._windows[stream] = self._windows.get(stream, 0) + int.from_bytes(payload)
        elif kind == RST_STREAM or (kind == HEADERS and flags & 0x1):
            self.ended.add(stream)
        self._changed.set()

    def _take_settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack("!HI", payload):
            if name == INITIAL_WINDOW_SIZE:
                grown, self._initial_window = value - self._initial_window, value
                self._windows = {each: size + (grown if each else 0) for each, size in self._windows.items()}


def literal(name: str, value: str) -> bytes:
    """Encodes a literal HPACK field, without indexing and Huffman coding."""
    return b"\x00" + sized(name.encode()) + sized(value.encode(errors="surrogateescape"))


def sized(text: bytes) -> bytes:
    """Encodes an HPACK string: its length in a prefix of seven bits, and its bytes."""
    if len(text) < 0x7F:
        return bytes([len(text)]) + text
    left, prefix = len(text) - 0x7F, bytearray([0x7F])
    while left >= 0x80:
        prefix.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*prefix, left]) + text


@asynccontextmanager
async def raw_http2(address: str) -> AsyncGenerator[RawHttp2]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(PREFACE + FRAME_HEAD.pack(0, 0, SETTINGS, 0, 0))
    connection = RawHttp2(reader, writer)
    try:
        yield connection
    finally:
        connection.abort()
