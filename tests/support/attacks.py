"""Attacks on a server, bounded in size and time, in a process of their own: `python -m tests.support.attacks`.
Attackers use another loopback address than clients, because connections are counted by address.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from tests.support.raw_http2 import FRAME_HEAD, PREFACE, SETTINGS, RawHttp2

ADDRESS = "127.0.0.2"
MEGABYTE = 10**6
COMPLETIONS = "/v1/chat/completions"
CHAT = "/dodil.ignite.v1.ModelService/ChatCompletion"
MESSAGE = {"role": "user", "content": "Hi"}


@dataclass(frozen=True)
class Victim:
    """`key`: a tenant's API key, for attacks by a tenant. The attack runs until `ends` (monotonic time)."""

    host: str
    port: int
    grpc_port: int
    key: str
    ends: float

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.ends

    @property
    def left(self) -> float:
        return max(0.0, self.ends - time.monotonic())


Attack = Callable[[Victim], Awaitable[None]]


@asynccontextmanager
async def connected(
    victim: Victim, port: int | None = None
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(victim.host, port or victim.port, local_addr=(ADDRESS, 0))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def post(victim: Victim, length: int, path: str = COMPLETIONS, kind: str = "application/json") -> bytes:
    lines = (
        *(f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {victim.key}"),
        *(f"Content-Type: {kind}", f"Content-Length: {length}", "", ""),
    )
    return "\r\n".join(lines).encode()


async def sent(victim: Victim, data: bytes) -> None:
    """Sends a request on a connection of its own, and reads the answer."""
    with suppress(OSError, asyncio.IncompleteReadError):
        async with connected(victim) as (reader, writer):
            reading = asyncio.create_task(reader.read(65536))
            try:
                writer.write(data)
                await writer.drain()
                await asyncio.wait_for(reading, max(1.0, victim.left))
            except TimeoutError:
                return
            finally:
                reading.cancel()


async def again(victim: Victim, side_by_side: int, once: Callable[[], Awaitable[None]]) -> None:
    async def one() -> None:
        while not victim.over:
            await once()

    await asyncio.gather(*(one() for _ in range(side_by_side)))


async def held_open(victim: Victim, count: int, data: bytes) -> None:
    """Opens connections that send `data` and nothing more. A connection that the server closes is opened again."""

    async def one() -> None:
        while not victim.over:
            with suppress(OSError, TimeoutError):
                async with connected(victim) as (reader, writer), asyncio.timeout(victim.left):
                    writer.write(data)
                    await writer.drain()
                    while await reader.read(65536):
                        pass
            await asyncio.sleep(0.2)

    await asyncio.gather(*(one() for _ in range(count)))


# ── before authentication ──


async def half_messages(victim: Victim) -> None:
    """Sends unfinished gRPC messages of 19 MB without a key: 10 connections with 20 streams each."""

    async def one() -> None:
        while not victim.over:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with connected(victim, victim.grpc_port) as (reader, writer), asyncio.timeout(victim.left):
                    writer.write(PREFACE + FRAME_HEAD.pack(0, 0, SETTINGS, 0, 0))
                    attacker = RawHttp2(reader, writer)
                    try:
                        streams = [await attacker.open_call(CHAT) for _ in range(20)]
                        for stream in streams:
                            await attacker.send_message_part(stream, announced=19 * MEGABYTE, sent=18 * MEGABYTE)
                    finally:
                        attacker.abort()

    await asyncio.gather(*(one() for _ in range(10)))


async def large_head(victim: Victim) -> None:
    """Sends a header of 80 MB."""
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx-a: "
    await again(victim, 2, lambda: sent(victim, head + b"a" * (80 * MEGABYTE)))


async def silent(victim: Victim) -> None:
    await held_open(victim, 1500, b"")


async def half_heads(victim: Victim) -> None:
    await held_open(victim, 1500, b"GET /v1/models HTTP/1.1\r\nHost: local")


async def half_bodies(victim: Victim) -> None:
    await held_open(victim, 1500, post(victim, 100_000) + b'{"model"')


async def wrong_keys(victim: Victim) -> None:
    async def once() -> None:
        key = os.urandom(8).hex()
        await sent(victim, f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())

    await again(victim, 8, once)


# ── with a key ──


async def deaf_readers(victim: Victim) -> None:
    """Opens 1,000 readers of a long job's events that read nothing."""
    asked = {"model": "simulated", "messages": [MESSAGE], "background": True, "max_tokens": 20_000}
    body = json.dumps(asked).encode()
    job = await answered(victim, post(victim, len(body)) + body)
    path = f"/v1/jobs/{job.get('id')}/events"
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {victim.key}\r\n\r\n"

    async def one() -> None:
        while not victim.over:
            with suppress(OSError):
                async with connected(victim) as (_, writer):
                    cast(asyncio.Transport, writer.transport).pause_reading()
                    writer.write(head.encode())
                    await asyncio.sleep(victim.left)

    await asyncio.gather(*(one() for _ in range(1000)))


async def empty_lists(victim: Victim) -> None:
    body = b'{"model":"simulated","messages":[' + b"[]," * (6 * MEGABYTE) + b"[]]}"
    await again(victim, 2, lambda: sent(victim, post(victim, len(body)) + body))


async def many_messages(victim: Victim) -> None:
    one = json.dumps(MESSAGE).encode()
    body = b'{"model":"simulated","messages":[' + (one + b",") * 400_000 + one + b"]}"
    await again(victim, 2, lambda: sent(victim, post(victim, len(body)) + body))


async def wrong_parts(victim: Victim) -> None:
    parts = b'{"type":7},' * 1_000_000
    body = b'{"model":"simulated","messages":[{"role":"user","content":[' + parts + b"{}]}]}"
    await again(victim, 2, lambda: sent(victim, post(victim, len(body)) + body))


async def too_large(victim: Victim) -> None:
    """Sends bodies of 100 MB, of which the server reads 21 MB at most."""
    await again(victim, 2, lambda: sent(victim, post(victim, 100 * MEGABYTE) + b"x" * (100 * MEGABYTE)))


async def large_bodies(victim: Victim) -> None:
    """Sends 50 valid bodies of 19 MB at once."""
    text = {"role": "user", "content": "x" * (19 * MEGABYTE)}
    body = json.dumps({"model": "simulated", "max_tokens": 2, "messages": [text]}).encode()
    await again(victim, 50, lambda: sent(victim, post(victim, len(body)) + body))


async def newlines(victim: Victim) -> None:
    """Creates batches with 20 MB of newlines."""
    kind = "multipart/form-data; boundary=x"
    data = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
    data += b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    data += b"\n" * (20 * MEGABYTE) + b"\r\n--x--\r\n"

    async def once() -> None:
        file = (await answered(victim, post(victim, len(data), "/v1/files", kind) + data)).get("id")
        asked = {"input_file_id": file, "endpoint": COMPLETIONS, "completion_window": "24h"}
        body = json.dumps(asked).encode()
        await answered(victim, post(victim, len(body), "/v1/batches") + body)

    await again(victim, 2, once)


async def uploads(victim: Victim) -> None:
    """Uploads files of 100 MB without ever finishing them."""
    kind = "multipart/form-data; boundary=x"
    data = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(100 * MEGABYTE)
    await again(victim, 4, lambda: sent(victim, post(victim, len(data) + 1, "/v1/files", kind) + data))


async def answered(victim: Victim, data: bytes) -> dict[str, Any]:
    """Returns an answer's JSON, or an empty object."""
    with suppress(OSError, asyncio.IncompleteReadError, ValueError, TimeoutError):
        async with connected(victim) as (reader, writer), asyncio.timeout(max(1.0, victim.left)):
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]
            return json.loads(await reader.readexactly(int(length)))
    return {}


ATTACKS: dict[str, Attack] = {
    "gRPC messages cut in half": half_messages,
    "a header of 80 MB": large_head,
    "1,500 silent connections": silent,
    "1,500 half heads": half_heads,
    "1,500 half bodies": half_bodies,
    "unknown keys": wrong_keys,
    "1,000 readers that never read": deaf_readers,
    "18 MB of empty lists": empty_lists,
    "400,000 messages": many_messages,
    "a million wrong parts": wrong_parts,
    "bodies of 100 MB": too_large,
    "50 bodies of 19 MB": large_bodies,
    "batches of 20 MB of newlines": newlines,
    "uploads that are broken off": uploads,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("attack", choices=sorted(ATTACKS))
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("grpc_port", type=int)
    parser.add_argument("key")
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    victim = Victim(given.host, given.port, given.grpc_port, given.key, time.monotonic() + given.seconds)
    asyncio.run(ATTACKS[given.attack](victim))


if __name__ == "__main__":
    main()
