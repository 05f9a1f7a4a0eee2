"""What gRPC costs beside HTTP: the same calls through both doors of one `ignite up` with the simulated engine.

    .venv/bin/python -m benchmarks.grpc_cost

Rounds alternate between the doors, so that whatever else the machine does hits both alike. The server's own CPU time is
what counts: clients differ more than servers do. Only the ratios of one run mean anything.
"""

import asyncio
import os
import re
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import grpc.aio
from google.protobuf import json_format

from shared.proto.dodil.ignite.v1.model_service_pb2 import (
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatCompletionResponse,
)

ROUNDS = 5
AT_ONCE = 32
TOKENS = 200
METHODS = "/dodil.ignite.v1.ModelService/"
READY = re.compile(r"ignite is ready: (http://\S+)/v1 · gRPC (\S+)")
TICK = os.sysconf("SC_CLK_TCK")

Call = Callable[[], Awaitable[int]]
"""Makes one call; returns its number of tokens."""


def body(tokens: int, *, stream: bool) -> dict[str, object]:
    return {
        "model": "simulated",
        "messages": [{"role": "user", "content": "seed=7"}],
        "max_tokens": tokens,
        "stream": stream,
    }


def http_calls(session: aiohttp.ClientSession) -> dict[str, Call]:
    async def unary() -> int:
        async with session.post("/v1/chat/completions", json=body(16, stream=False)) as response:
            return (await response.json())["usage"]["completion_tokens"]

    async def stream() -> int:
        async with session.post("/v1/chat/completions", json=body(TOKENS, stream=True)) as response:
            return (await response.read()).count(b'"content":" t')

    return {"unary": unary, "stream": stream}


def grpc_calls(channel: grpc.aio.Channel) -> dict[str, Call]:
    ask = ChatCompletionRequest.SerializeToString
    whole = channel.unary_unary(METHODS + "ChatCompletion", ask, ChatCompletionResponse.FromString)
    parts = channel.unary_stream(METHODS + "StreamChatCompletion", ask, ChatCompletionChunk.FromString)

    short, long = (json_format.ParseDict(body(size, stream=False), ChatCompletionRequest()) for size in (16, TOKENS))

    async def unary() -> int:
        answer = await whole(short)
        return answer.usage.completion_tokens

    async def stream() -> int:
        chunks = parts(long)
        return sum([bool(chunk.choices[0].delta.content) async for chunk in chunks])

    return {"unary": unary, "stream": stream}


async def cost(call: Call, calls: int, pid: int) -> tuple[float, float]:
    """Returns the milliseconds per call: the server's CPU, and wall clock. `AT_ONCE` clients share the calls."""
    left = iter(range(calls))

    async def client() -> None:
        for _ in left:
            assert await call() >= 16

    began, used = time.perf_counter(), cpu_seconds(pid)
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return (cpu_seconds(pid) - used) / calls * 1000, (time.perf_counter() - began) / calls * 1000


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@asynccontextmanager
async def running_server() -> AsyncGenerator[tuple[int, str, str]]:
    with TemporaryDirectory() as data:
        command = ("up", "--engine", "simulated", "--port", "0", "--grpc-port", "0", "--data-dir", data)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ignite", *command, "--log-level", "warning", stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            ready = READY.search((await process.stdout.readline()).decode())
            assert ready, "the server did not start"
            yield process.pid, ready[1], ready[2]
        finally:
            process.terminate()
            await process.wait()


async def main() -> None:
    async with (
        running_server() as (pid, http, address),
        aiohttp.ClientSession(http, connector=aiohttp.TCPConnector(limit=0)) as session,
        grpc.aio.insecure_channel(address) as channel,
    ):
        doors = {"HTTP": http_calls(session), "gRPC": grpc_calls(channel)}
        for kind, calls in {"unary": 1500, "stream": 200}.items():
            for door in doors.values():
                await cost(door[kind], calls // 5, pid)
            rounds = [{name: await cost(door[kind], calls, pid) for name, door in doors.items()} for _ in range(ROUNDS)]
            for at, what in enumerate(("server CPU", "wall clock")):
                ratio = statistics.median(each["gRPC"][at] / each["HTTP"][at] for each in rounds)
                shown = ", ".join(
                    f"{name} {statistics.median(each[name][at] for each in rounds):.2f} ms" for name in doors
                )
                print(f"{kind}, {what} a call: {shown}; gRPC/HTTP {ratio:.2f}")


if __name__ == "__main__":
    asyncio.run(main())
