"""Connections of stalled clients are closed; slow clients stay connected."""

import asyncio
import os
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import pytest
import structlog
from prometheus_client import REGISTRY

from producer.http.connection import limits
from producer.http.connection.limits import Connections, address_of
from tests.producer.api import COMPLETIONS, Api, ask, embedded_api, raw_post, settings_for_tests
from tests.support.wait_until import wait_until

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
HALF_BODY = (
    f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{{".encode()
)


def cut(reason: str) -> float:
    return REGISTRY.get_sample_value("ignite_http_connections_cut_total", {"reason": reason}) or 0


@asynccontextmanager
async def opened(api: Api, count: int, request: bytes) -> AsyncIterator[list[asyncio.StreamReader]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(api.connected(request)) for _ in range(count)]


async def ends(readers: list[asyncio.StreamReader]) -> list[bytes]:
    async def end(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read()
        except ConnectionError:
            return b""

    async with asyncio.timeout(20):
        return await asyncio.gather(*map(end, readers))


# ── time ──


@pytest.mark.parametrize(
    ("sent", "answer", "reason"),
    [
        (b"", b"", "head_timeout"),
        (b"\r\n", b"HTTP/1.1 408", "head_timeout"),
        (b"GET / HT", b"HTTP/1.1 408", "head_timeout"),
        (GET, b"HTTP/1.1 408", "head_timeout"),
        (HALF_BODY, b"HTTP/1.1 408", "body_timeout"),
        (GET + b"\r\n", b"HTTP/1.1 200", "idle"),
    ],
)
async def test_a_connection_that_keeps_the_server_waiting_is_closed(sent: bytes, answer: bytes, reason: str) -> None:
    async with embedded_api(head_timeout=0.2, body_timeout=0.2, idle_timeout=0.2) as api:
        before = cut(reason)
        async with opened(api, 20, sent) as readers:
            seen = await ends(readers)
        assert all(each.startswith(answer) for each in seen), seen
        assert reason == "idle" or cut(reason) == before + 20
        await wait_until(lambda: not api.server.server_state.connections, "the connections to be gone")


async def test_slow_bytes_of_a_head_or_body_do_not_extend_the_timeout() -> None:
    async with embedded_api(head_timeout=0.4, body_timeout=0.4) as api:
        for begin in (GET + b"a: ", b"\r", HALF_BODY):
            async with asyncio.timeout(20), api.connected(begin) as reader:
                answer = asyncio.create_task(reader.read())
                while not answer.done():
                    reader._transport.write(b"\n\r" if begin == b"\r" else b" ")  # type: ignore[attr-defined]
                    await asyncio.sleep(0.02)
                assert (await answer).startswith((b"HTTP/1.1 408", b"HTTP/1.1 400"))


async def test_waiting_for_the_server_does_not_time_out() -> None:
    """A slow call, a stream without frames, and a body before `100 Continue`."""
    async with embedded_api(
        head_timeout=0.2, body_timeout=0.2, idle_timeout=0.2, write_timeout=0.2, keepalive=0.05
    ) as api:
        for stream in (False, True):
            answer = await api.post(ask("seed=7 ttft=900", stream=stream))
            assert b" t009" in answer.body or " t009" in answer.text


async def test_a_stalled_reader_is_cut_and_a_slow_one_is_not() -> None:
    """The server buffers one piece for a slow reader; the rest is in the log."""
    async with embedded_api(write_timeout=1.0) as api:
        job = await api.submit(ask("go", max_tokens=60_000))
        assert (await api.ended(job))["status"] == "completed"
        whole = (await api.get(f"/v1/jobs/{job}/events")).body
        assert len(whole) > 8_000_000
        request = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        before = cut("write_timeout")
        stuck, slow = [await small_client(api, request) for _ in range(2)]
        with stuck, slow:
            taken = asyncio.create_task(slowly(slow))
            await wait_until(lambda: cut("write_timeout") > before, "the stuck reader to be cut", 20)
            assert cut("write_timeout") == before + 1
            assert not taken.done()
            held = [each.unsent() for each in api.server.server_state.connections if not each.transport.is_closing()]
            assert all(size <= 128 * 1024 for size in held)
            taken.cancel()
            await asyncio.wait([taken])


async def test_a_stalled_reader_costs_little_memory() -> None:
    readers = 100
    async with embedded_api() as api, AsyncExitStack() as stack:
        job = await api.submit(ask("go", max_tokens=5_000))
        await api.ended(job)
        request = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        connections = api.server.server_state.connections

        def stuck() -> int:
            return sum(each.flow.write_paused for each in connections)

        with stack.enter_context(await small_client(api, request)):
            await wait_until(lambda: stuck() == 1, "the first one to be stuck")  # What comes once does not count.
            with traced_memory() as grown:
                for _ in range(readers):
                    stack.enter_context(await small_client(api, request))
                await wait_until(lambda: stuck() == 1 + readers, "all to be stuck")
                each = grown() / readers
    assert each < 72 * 1024


@contextmanager
def traced_memory() -> Iterator[Callable[[], int]]:
    """Yields a function that returns the increase of Python's memory."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield lambda: tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


async def small_client(api: Api, request: bytes) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, api.server.servers[0].sockets[0].getsockname())
    await loop.sock_sendall(client, request)
    return client


async def slowly(client: socket.socket) -> None:
    while await asyncio.sleep(0.05, await asyncio.get_running_loop().sock_recv(client, 4096)):
        pass


async def test_an_unread_answer_does_not_delay_the_shutdown() -> None:
    async with embedded_api(write_timeout=0.3) as api:
        job = await api.submit(ask("go", max_tokens=60_000))
        await api.ended(job)
        client = await small_client(
            api, f"GET /v1/jobs/{job}/result HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        with client:
            await wait_until(lambda: not api.server.server_state.connections - kept(api), "it to be cut", 20)


def kept(api: Api) -> set[object]:
    return {each for each in api.server.server_state.connections if each.cycle and each.cycle.keep_alive}


# ── number ──


@pytest.mark.parametrize("sent", [b"", GET, GET + b"\r\n"], ids=["silent", "half", "kept"])
async def test_idle_connections_are_replaced(sent: bytes) -> None:
    async with embedded_api(connection_limit=20) as api:
        with structlog.testing.capture_logs() as logs:
            async with opened(api, 60, sent):
                assert len(api.server.server_state.connections) <= 40
                async with asyncio.timeout(10):
                    assert (await api.get("/healthz")).status == 200
        assert next(each["log_level"] for each in logs if each["event"] == "connections.bounded") == "warning"
        assert cut("address_limit") >= 1


async def test_stalled_bodies_of_one_address_give_way_to_another_address_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REPLACEABLE_AFTER", 600.0)
    async with embedded_api(connection_limit=10, worker=False) as api, AsyncExitStack() as stack:
        host, port = api.server.servers[0].sockets[0].getsockname()
        stalled = [await asyncio.open_connection(host, port, local_addr=("127.0.0.2", 0)) for _ in range(8)]
        for _, writer in stalled:
            stack.callback(writer.transport.abort)
            writer.write(HALF_BODY)
        await wait_until(lambda: len(api.server.server_state.tasks) >= 8, "the bodies to begin")
        async with opened(api, 2, raw_post(ask(stream=True))):

            async def is_served() -> bool:
                async with api.connected(GET + b"\r\n") as reader:
                    return (await reader.readline()).startswith(b"HTTP/1.1 200")

            await wait_until(is_served, "a stalled body to give way")


async def test_a_connection_above_the_limit_gets_503() -> None:
    async with embedded_api(connection_limit=10, worker=False) as api, opened(api, 8, raw_post(ask(stream=True))):
        await wait_until(lambda: len(api.server.server_state.tasks) >= 8, "the calls to be open")
        head = await api.raw(GET + b"\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: " in head


async def test_a_tenant_has_a_share_of_the_open_calls() -> None:
    keys = "alice=sk-alice-alice-0123456789,bob=sk-bob-bob-bob-0123456789"
    async with embedded_api(tenant_call_limit=3, api_keys=keys, worker=False) as api:
        alice, bob = ({"authorization": f"Bearer {pair.partition('=')[2]}"} for pair in keys.split(","))
        request = raw_post(ask(stream=True), f"Authorization: {alice['authorization']}")
        async with opened(api, 3, request):
            await wait_until(lambda: len(api.server.server_state.tasks) >= 3, "the calls to be open")
            refused = await api.get("/v1/models", **alice)
            assert (refused.status, refused.error["code"]) == (429, "too_many_open_calls")
            assert refused.headers["retry-after"]
            assert (await api.get("/v1/models", **bob)).status == 200

        async def served_again() -> bool:
            return (await api.get("/v1/models", **alice)).status == 200

        await wait_until(served_again, "alice to be served again")


async def test_the_descriptors_bound_the_connections() -> None:
    settings = settings_for_tests()
    assert Connections(settings, 256).limit == 152
    assert Connections(settings, 40).limit == 10
    assert Connections(settings, 1_000_000).limit == settings.connection_limit
    assert Connections(settings, 256).address_limit == 121


async def test_a_low_descriptor_limit_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    async with embedded_api() as api:
        used = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(api.context.connections, "descriptor_limit", used + 40)
        with structlog.testing.capture_logs() as logs:
            async with opened(api, 60, b""):
                assert (await api.get("/healthz")).status == 200
        assert "descriptors" in {each.get("reason") for each in logs}


def test_connections_of_one_address_are_limited() -> None:
    assert address_of("10.0.0.7") == address_of("::ffff:10.0.0.7") == "10.0.0.7"
    assert address_of("2001:db8::1") == address_of("2001:db8::ffff:2") != address_of("2001:db8:0:1::1")
    assert address_of(None) == ""
