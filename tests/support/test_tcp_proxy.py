import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.leak_check import no_leaks
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait_until import wait_until


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, proxy: TcpProxy) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def echoed(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.reader.readexactly(len(data))

    def close(self) -> None:
        self.writer.close()


async def test_forwards_both_ways_and_ends_when_the_client_does(echo_port: int) -> None:
    async with no_leaks(), TcpProxy(echo_port) as proxy:
        client = await Client.connect(proxy)

        assert await client.echoed(b"x" * 300_000) == b"x" * 300_000

        client.writer.write_eof()
        assert await client.reader.read() == b""
        client.close()
        await wait_until(lambda: proxy.open_connections == 0)


async def test_cut_resets_what_is_open_and_welcomes_what_is_new(echo_port: int) -> None:
    async with TcpProxy(echo_port) as proxy:
        first = await Client.connect(proxy)
        assert await first.echoed(b"hello") == b"hello"

        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await first.reader.read()

        second = await Client.connect(proxy)
        assert await second.echoed(b"again") == b"again"
        assert proxy.accepted == 2
        first.close()
        second.close()


async def test_refuse_then_resume_on_the_same_port(echo_port: int) -> None:
    async with TcpProxy(echo_port) as proxy:
        port = proxy.port
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await Client.connect(proxy)

        await proxy.resume()
        assert proxy.port == port
        client = await Client.connect(proxy)
        assert await client.echoed(b"back") == b"back"
        client.close()


async def test_stall_holds_the_bytes_until_resumed(echo_port: int) -> None:
    async with TcpProxy(echo_port) as proxy:
        client = await Client.connect(proxy)
        proxy.stall()
        waiting = asyncio.create_task(client.echoed(b"late"))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done

        await proxy.resume()
        assert await waiting == b"late"
        client.close()


async def test_what_is_lost_stays_silent_for_good_and_what_is_new_works(echo_port: int) -> None:
    async with no_leaks(), TcpProxy(echo_port) as proxy:
        first = await Client.connect(proxy)
        assert await first.echoed(b"hello") == b"hello"

        await proxy.lose()
        waiting = asyncio.create_task(first.echoed(b"anyone?"))
        second = await Client.connect(proxy)
        assert await second.echoed(b"new") == b"new"
        await proxy.resume()
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done, "neither an answer nor an end"

        waiting.cancel()
        await asyncio.wait([waiting])
        first.close()
        second.close()


async def test_slow_keeps_to_its_rate(echo_port: int) -> None:
    async with TcpProxy(echo_port) as proxy:
        proxy.slow(bytes_per_second=10_000)
        client = await Client.connect(proxy)
        began = time.monotonic()
        await client.echoed(b"x" * 2_000)
        client.close()

    assert time.monotonic() - began > 0.15


async def test_nobody_upstream_is_a_reset() -> None:
    async with TcpProxy(upstream=1) as proxy:
        client = await Client.connect(proxy)
        with pytest.raises(ConnectionResetError):
            await client.echoed(b"?")
        client.close()
