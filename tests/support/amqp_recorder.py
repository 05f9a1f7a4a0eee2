"""Counts the frames and bytes that go over the connections to a broker."""

import asyncio
import struct
from collections import Counter

from tests.support.tcp_proxy import CHUNK, TcpProxy

PROTOCOL_HEADER = b"AMQP"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
BASIC = {(60, 40): "publish", (60, 60): "deliver", (60, 80): "ack", (60, 120): "nack", (60, 50): "return"}


class AmqpRecorder(TcpProxy):
    """Records both directions of every connection through the proxy."""

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self._streams: list[bytearray] = []

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        seen = bytearray()
        self._streams.append(seen)
        while data := await source.read(CHUNK):
            seen += data
            sink.write(data)
            await sink.drain()
        sink.write_eof()

    def frames(self) -> Counter[str]:
        """Returns the counts so far: the methods of a message's life by name, others as `other`, and what comes with
        messages.
        """
        return sum((frames_in(bytes(stream)) for stream in self._streams), Counter[str]())

    def size(self) -> int:
        return sum(map(len, self._streams))


def frames_in(stream: bytes) -> Counter[str]:
    found: Counter[str] = Counter()
    at = 8 if stream.startswith(PROTOCOL_HEADER) else 0
    while at + 7 <= len(stream):
        kind, _, size = struct.unpack_from(">BHI", stream, at)
        if kind == METHOD:
            found[BASIC.get(struct.unpack_from(">HH", stream, at + 7), "other")] += 1
        elif kind in (HEADER, BODY):
            found["header" if kind == HEADER else "body"] += 1
        at += 7 + size + 1
    return found
