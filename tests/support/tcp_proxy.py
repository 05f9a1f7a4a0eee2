"""A TCP proxy that breaks connections on cue."""

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

from tests.support.server import free_ports

CHUNK = 65536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, zero seconds: the peer sees a reset, not an orderly end


class TcpProxy:
    """Forwards `address`:`port`, a free port, to `upstream`. `resume()` ends refuse, stall and slow."""

    def __init__(self, upstream: int, host: str = "127.0.0.1", *, address: str = "127.0.0.1") -> None:
        self._upstream = (host, upstream)
        self._address = address
        self._lost: list[asyncio.StreamWriter] = []
        self._losing = False
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._bytes_per_second: float | None = None
        self.port = free_ports(1)[0]
        self.accepted = 0

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        await asyncio.gather(*self._connections, return_exceptions=True)
        _reset(self._lost)

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def cut(self) -> None:
        """Resets every open connection. New connections work."""
        for each in self._connections:
            each.cancel()

    async def lose(self) -> None:
        """Silences open connections for good without closing them, as a router does that forgets them. New connections
        work.
        """
        self._losing = True
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._losing = False

    def refuse(self) -> None:
        """Cuts open connections and refuses new ones."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.cut()

    def stall(self) -> None:
        """Accepts connections, and forwards nothing in either direction."""
        self._flowing.clear()

    def slow(self, bytes_per_second: float) -> None:
        """Delays each direction of each connection."""
        self._bytes_per_second = bytes_per_second

    async def resume(self) -> None:
        self._bytes_per_second = None
        self._flowing.set()
        await self._listen()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, self._address, self.port)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        writers = [near_out]
        try:
            far_in, far_out = await asyncio.open_connection(*self._upstream)
            writers.append(far_out)
            # Else the kernel holds megabytes for a wire that is stalled or slow.
            far_out.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
            await asyncio.gather(self._pump(near_in, far_out), self._pump(far_in, near_out))
            for writer in writers:
                writer.close()
        except OSError:
            _reset(writers)
        except asyncio.CancelledError:
            self._part_with(writers)
            raise

    def _part_with(self, writers: list[asyncio.StreamWriter]) -> None:
        if self._losing:
            self._lost += writers
        else:
            _reset(writers)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(self._chunk()):
            await self._flowing.wait()
            sink.write(data)
            await sink.drain()
            if self._bytes_per_second:
                await asyncio.sleep(len(data) / self._bytes_per_second)
        await self._flowing.wait()
        sink.write_eof()

    def _chunk(self) -> int:
        if self._bytes_per_second is None:
            return CHUNK
        return max(1, int(self._bytes_per_second / 20))


def _reset(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        if (wire := writer.get_extra_info("socket")) is not None and wire.fileno() >= 0:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()
