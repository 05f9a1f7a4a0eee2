"""Hostile gRPC calls to a process of its own: it answers other clients, logs no error, and does not grow."""

import asyncio
import gzip
import struct
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import pytest

from tests.producer.grpc.test_bounds import ALICE, BOB, CHAT, CHECK, KEYS, MEGABYTE, resident
from tests.support.grpc_client import GrpcClient, grpc_client, refused
from tests.support.raw_http2 import RawHttp2, raw_http2
from tests.support.run_process import RunningProcess, run_ignite
from tests.support.wait_until import wait_until

Code = grpc.StatusCode
ASK = {"model": "simulated", "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 2}
TEN_YEARS = 10 * 365 * 86400
BOMB = gzip.compress(bytes(300 * MEGABYTE), compresslevel=1)
RESETS, GROWTH = 5_000, 48 * MEGABYTE
CANCEL = struct.pack("!I", 8)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncGenerator[RunningProcess]:
    command = ("up", "--engine", "simulated", "--port", "0", "--data-dir", str(tmp_path))
    async with run_ignite(*command, env={"IGNITE_API_KEYS": KEYS}) as process:
        yield process


async def test_no_call_harms_the_process(process: RunningProcess) -> None:
    address = (await process.wait_for(r"gRPC (\S+)"))[1]
    async with grpc_client(address) as client:
        await client.answer(ASK, metadata=BOB)
        before = resident(process)
        await large_metadata(client)
        await odd_deadlines(client, address)
        for path, metadata in ((CHAT, ALICE), (CHAT, {}), (CHECK, {})):
            await bomb(address, path, metadata)
        await resets(address, ALICE)
        await resets(address, {})
        assert resident(process) - before < GROWTH
        await wait_until(lambda: answers(client), "another client to be answered")
    assert process.returncode is None
    assert not [line for line in process.output.splitlines() if '"level":"error"' in line]
    assert "grpc.resets_bounded" in process.output


async def large_metadata(client: GrpcClient) -> None:
    refusal = await refused(client.unary(ASK, metadata=ALICE | {"x-large": "a" * MEGABYTE}))
    assert (refusal.code, "metadata size" in refusal.message) == (Code.RESOURCE_EXHAUSTED, True)


async def odd_deadlines(client: GrpcClient, address: str) -> None:
    assert await client.answer(ASK, metadata=ALICE, timeout=TEN_YEARS)
    async with raw_http2(address) as connection:
        stream = await connection.open_call(CHAT, ALICE | {"grpc-timeout": "1n"})
        await wait_until(lambda: stream in connection.ended, "the call to be over")


async def bomb(address: str, path: str, metadata: dict[str, str]) -> None:
    async with raw_http2(address) as connection:
        stream = await connection.open_call(path, metadata | {"grpc-encoding": "gzip"})
        await connection.send_compressed(stream, BOMB)
        await wait_until(lambda: stream in connection.ended, "the call to be refused")


async def resets(address: str, metadata: dict[str, str]) -> None:
    """Resets calls until the server closes the connection."""
    async with raw_http2(address) as connection:
        for number in range(RESETS):
            await connection.reset(await connection.open_call(CHAT, metadata), CANCEL)
            if number % 10 == 0:
                await asyncio.sleep(0)
            if connection.closed:
                return
        await wait_until(lambda: resets_on(connection, metadata), "the connection to be closed")


async def resets_on(connection: RawHttp2, metadata: dict[str, str]) -> bool:
    if not connection.closed:
        await connection.reset(await connection.open_call(CHAT, metadata), CANCEL)
    return connection.closed


async def answers(client: GrpcClient) -> bool:
    try:
        return bool(await client.answer(ASK, metadata=BOB))
    except grpc.aio.AioRpcError:
        return False
