"""Limits of gRPC for clients with and without a key: unfinished messages, connections, streams."""

import asyncio
import resource
import sys
from contextlib import AsyncExitStack, suppress
from ipaddress import ip_address
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from producer.rpc import connection_guard
from producer.rpc.receiving import WINDOW
from producer.rpc.server import connections_of
from tests.producer.api import Api, ask, embedded_api
from tests.support.grpc_client import SERVICE, GrpcClient, grpc_client, refused
from tests.support.raw_http2 import RawHttp2, raw_http2
from tests.support.run_process import RunningProcess, run_ignite
from tests.support.wait_until import wait_until

KEYS = "alice=secret-of-alice-4711,bob=secret-of-bob-4711"
ALICE = {"authorization": "Bearer secret-of-alice-4711"}
BOB = {"authorization": "Bearer secret-of-bob-4711"}
CHAT = f"/{SERVICE}/ChatCompletion"
STREAM = f"/{SERVICE}/StreamChatCompletion"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
Code = grpc.StatusCode
ANNOUNCED = 19_000_000
MEGABYTE = 1_000_000


async def half_sent(connection: RawHttp2, path: str, metadata: dict[str, str] | None = None) -> int:
    """Sends a part of a message, and returns how many bytes the server accepted."""
    stream = await connection.open_call(path, metadata)
    return await connection.send_message_part(stream, announced=ANNOUNCED, sent=2 * MEGABYTE)


def resident(process: RunningProcess) -> int:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("metadata", [{}, {"authorization": "Bearer wrong-key-wrong-key"}], ids=["none", "wrong"])
async def test_messages_without_a_key_take_no_memory(tmp_path: Path, metadata: dict[str, str]) -> None:
    command = ("up", "--engine", "simulated", "--port", "0", "--data-dir", str(tmp_path))
    async with run_ignite(*command, env={"IGNITE_API_KEYS": KEYS}) as process, AsyncExitStack() as stack:
        address = (await process.wait_for(r"gRPC (\S+)"))[1]
        before = resident(process)
        attackers = [await stack.enter_async_context(raw_http2(address)) for _ in range(4)]
        calls = [half_sent(each, path, metadata) for each in attackers for path in (CHAT, STREAM) * 5]
        assert max(await asyncio.gather(*calls)) <= WINDOW
        await wait_until(lambda: all(len(each.ended) == 10 for each in attackers), "every call to be refused")
        assert resident(process) - before < 16 * MEGABYTE


async def test_one_tenants_messages_are_bounded_in_memory_and_time() -> None:
    settings = {"grpc_receive_memory": 84_000_000, "grpc_receive_timeout": 2}  # Four messages, two of one tenant.
    async with (
        embedded_api(grpc=True, api_keys=KEYS, **settings) as api,
        grpc_client(api.grpc_address) as client,
        raw_http2(api.grpc_address) as attacker,
    ):
        attack = asyncio.gather(*(half_sent(attacker, CHAT, ALICE) for _ in range(20)))
        assert (await client.answer(ask(), metadata=BOB))["object"] == "chat.completion"
        taken = sorted(await attack)
        assert taken[-1] > MEGABYTE, "what is read comes in"
        assert taken[-3] <= WINDOW
        await wait_until(lambda: len(attacker.ended) == 20, "every call to be given up")
        assert (await client.answer(ask(), metadata=ALICE))["object"] == "chat.completion"


async def test_a_call_without_a_message_is_refused() -> None:
    async with embedded_api(grpc=True) as api, grpc_client(api.grpc_address) as client:
        refusal = await refused(client.channel.stream_unary(CHAT)(iter([])))
        assert (refusal.code, refusal.error["message"]) == (
            Code.INVALID_ARGUMENT,
            "The call has no message: send one ChatCompletionRequest.",
        )


async def test_a_call_whose_message_never_completes_ends() -> None:
    async def never():  # type: ignore[no-untyped-def]
        await asyncio.Event().wait()
        yield b""

    async with (
        embedded_api(grpc=True, grpc_receive_timeout=0.2) as api,
        grpc_client(api.grpc_address) as client,
    ):
        refusal = await refused(client.channel.stream_unary(CHAT)(never()))
        assert (refusal.code, refusal.error["code"]) == (Code.DEADLINE_EXCEEDED, "receive_timeout")


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECTION])
async def test_health_and_reflection_read_little_without_a_key(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.rpc.server.UNAUTHENTICATED_TIMEOUT", 1.0)
    async with (
        embedded_api(grpc=True, api_keys=KEYS) as api,
        grpc_client(api.grpc_address) as client,
        raw_http2(api.grpc_address) as attacker,
    ):
        attack = asyncio.gather(*(half_sent(attacker, path) for _ in range(20)))
        status = (await HealthStub(client.channel).Check(HealthCheckRequest(service=SERVICE))).status
        assert status == HealthCheckResponse.SERVING
        taken = sorted(await attack)
        assert taken[-1] > MEGABYTE
        assert taken[-5] <= WINDOW
        if path != WATCH:  # Those for whose message there was no room watch the server as a whole.
            await wait_until(lambda: len(attacker.ended) == 20, "every call to be given up")


async def test_watch_streams_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.rpc.health.WATCHERS_OF_ONE", 3)
    async with embedded_api(grpc=True) as api, grpc_client(api.grpc_address) as client:
        health = HealthStub(client.channel)
        watching = [health.Watch(HealthCheckRequest()) for _ in range(3)]
        for each in watching:
            assert (await each.read()).status == HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await health.Watch(HealthCheckRequest()).read()
        assert failure.value.code() is Code.RESOURCE_EXHAUSTED
        watching.pop().cancel()
        await wait_until(lambda: watches(health), "room for another one")


async def watches(health: HealthStub) -> bool:
    call = health.Watch(HealthCheckRequest())
    try:
        return (await call.read()).status == HealthCheckResponse.SERVING
    except grpc.aio.AioRpcError:
        return False
    finally:
        call.cancel()


async def test_watch_streams_share_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.rpc.health.WATCH_EVERY", 0.1)
    async with embedded_api(grpc=True) as api, grpc_client(api.grpc_address) as client:
        looks, check = 0, api.backend.check

        async def counted() -> object:
            nonlocal looks
            looks += 1
            return await check()

        monkeypatch.setattr(api.backend, "check", counted)
        watching = [HealthStub(client.channel).Watch(HealthCheckRequest()) for _ in range(20)]
        for each in watching:
            await each.read()
        assert looks <= 5
        for each in watching:
            each.cancel()


async def test_connections_are_bounded() -> None:
    async with embedded_api(grpc=True, grpc_connections=5) as api:
        async with AsyncExitStack() as stack:
            attackers = [await stack.enter_async_context(raw_http2(api.grpc_address)) for _ in range(20)]
            await wait_until(lambda: sum(not each.closed for each in attackers) <= 5, "the others to be closed")
        await wait_until(lambda: answers(api), "room for another client")


async def test_connections_of_an_address_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_guard, "CHECK_EVERY", 0.05)
    async with embedded_api(grpc=True, grpc_address_connections=3) as api, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(raw_http2(api.grpc_address)) for _ in range(12)]
        await wait_until(lambda: sum(not each.closed for each in clients) == 3, "nine to be closed")
        kept = [each for each in clients if not each.closed]
        later = [await stack.enter_async_context(raw_http2(api.grpc_address)) for _ in range(4)]
        await wait_until(lambda: all(each.closed for each in later), "the later ones to be closed")
        assert not any(each.closed for each in kept)


@pytest.mark.skipif(sys.byteorder != "little", reason="the words are in the machine's byte order")
@pytest.mark.parametrize(
    ("words", "address"),
    [
        ("0200007F", "127.0.0.2"),
        ("0000000000000000FFFF00000100007F", "::ffff:127.0.0.1"),
        ("B80D0120000000000000000001000000", "2001:db8::1"),
    ],
)
def test_addresses_of_the_kernels_tables(words: str, address: str) -> None:
    assert ip_address(connection_guard.plain_address(words)) == ip_address(address)


@pytest.mark.parametrize(
    ("soft", "connections"), [(resource.RLIM_INFINITY, 1000), (65_536, 1000), (1024, 256), (256, 64), (3, 1)]
)
async def test_connections_leave_file_descriptors_for_other_uses(
    soft: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.rpc.server.resource.getrlimit", lambda _: (soft, soft))
    assert connections_of(1000) == connections


async def answers(api: Api) -> bool:
    async with grpc.aio.insecure_channel(api.grpc_address) as channel:
        try:
            return (await HealthStub(channel).Check(HealthCheckRequest())).status == HealthCheckResponse.SERVING
        except grpc.aio.AioRpcError:
            return False


async def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.rpc.server.HANDSHAKE_TIMEOUT_MS", 300)
    monkeypatch.setattr("producer.rpc.server.IDLE_TIMEOUT_MS", 1000)
    async with embedded_api(grpc=True) as api, raw_http2(api.grpc_address) as idle:
        host, _, port = api.grpc_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.close()
        await wait_until(lambda: idle.closed, "the connection without calls to be closed")


async def test_streams_of_a_connection_are_bounded() -> None:
    async with (
        embedded_api(grpc=True, api_keys=KEYS, grpc_streams=3) as api,
        raw_http2(api.grpc_address) as attacker,
    ):
        for _ in range(10):
            await attacker.open_call(CHAT, ALICE)
        await wait_until(lambda: len(attacker.ended) == 7, "the other streams to be refused")


async def test_a_browsers_call_through_a_proxy_is_refused_without_keys() -> None:
    async with (
        embedded_api(grpc=True, no_auth_anywhere=False) as api,
        grpc_client(api.grpc_address) as client,
    ):
        await is_refused(client, {"origin": "https://evil.example"})
        await is_refused(client, {"x-forwarded-for": "203.0.113.7"})
        assert await client.answer(ask(), metadata={"origin": "http://localhost:3000"})


async def is_refused(client: GrpcClient, metadata: dict[str, str]) -> None:
    assert (await refused(client.unary(ask(), metadata=metadata))).code is Code.PERMISSION_DENIED


async def test_open_calls_are_limited_in_total_and_per_tenant() -> None:
    async with (
        embedded_api(grpc=True, api_keys=KEYS, grpc_calls=6) as api,
        grpc_client(api.grpc_address) as client,
    ):
        api.engine.gate.clear()
        waiting = [asyncio.create_task(client.answer(ask(), metadata=ALICE)) for _ in range(3)]
        await wait_until(lambda: api.engine.working == 3)
        refusal = await refused(client.unary(ask(), metadata=ALICE))
        assert (refusal.code, refusal.error["code"]) == (Code.RESOURCE_EXHAUSTED, "too_many_open_calls")
        assert refusal.retry_after == 1
        waiting.append(asyncio.create_task(client.answer(ask(), metadata=BOB)))
        await wait_until(lambda: api.engine.working == 4)
        api.engine.gate.set()
        assert len(await asyncio.gather(*waiting)) == 4
        assert await client.answer(ask(), metadata=ALICE)


@pytest.mark.parametrize("path", ["/\udce2", f"/{SERVICE}/Nothing", "/", "", f"/{SERVICE}/ChatCompletion\udcff"])
async def test_no_method_name_stops_the_server(path: str) -> None:
    async with (
        embedded_api(grpc=True, api_keys=KEYS) as api,
        grpc_client(api.grpc_address) as client,
        raw_http2(api.grpc_address) as attacker,
    ):
        stream = await attacker.open_call(path, ALICE)
        await wait_until(lambda: attacker.closed or stream in attacker.ended, "the call to be refused")
        assert (await client.answer(ask(), metadata=BOB))["object"] == "chat.completion"


async def test_a_header_that_is_not_text_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with embedded_api(grpc=True, api_keys=KEYS) as api, raw_http2(api.grpc_address) as attacker:
        stream = await attacker.open_call(CHAT, {"authorization": "Bearer secret-of-alice-4711\udcff"})
        await wait_until(lambda: stream in attacker.ended, "the call to be refused")
        assert "secret-of" not in caplog.text
