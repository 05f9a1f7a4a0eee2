"""A well-behaved client that measures its calls: `python -m tests.support.healthy`. It makes calls one after another
until its stdin ends, and then prints their times.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

PACE = 0.05
"""Seconds between one call's answer and the next call."""

UNARY = {"model": "simulated", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**UNARY, "max_tokens": 10, "stream": True}


class Times:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failures: list[str] = []

    def summary(self) -> dict[str, Any]:
        ordered = sorted(self.seconds) or [0.0]
        return {
            "count": len(self.seconds),
            "failures": self.failures[:5],
            "failed": len(self.failures),
            "p50": ordered[len(ordered) // 2],
            "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
            "most": ordered[-1],
        }


async def health(session: aiohttp.ClientSession) -> None:
    async with session.get("/healthz") as answer:
        await expect(answer, b"")


async def unary(session: aiohttp.ClientSession) -> None:
    async with session.post("/v1/chat/completions", json=UNARY) as answer:
        await expect(answer, b"chat.completion")


async def stream(session: aiohttp.ClientSession) -> None:
    async with session.post("/v1/chat/completions", json=STREAM) as answer:
        await expect(answer, b"[DONE]")


async def expect(answer: aiohttp.ClientResponse, words: bytes) -> None:
    body = await answer.read()
    if answer.status != 200 or words not in body:
        raise ValueError(f"{answer.status}: {body[:200]!r}")


async def repeated(
    call: Callable[[aiohttp.ClientSession], Awaitable[None]],
    session: aiohttp.ClientSession,
    times: Times,
    stop: asyncio.Event,
) -> None:
    while not stop.is_set():
        began = time.perf_counter()
        try:
            await call(session)
            times.seconds.append(time.perf_counter() - began)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            times.failures.append(f"{call.__name__}: {error!r}")
        await asyncio.sleep(PACE)


async def run(url: str, key: str) -> dict[str, Any]:
    calls = (health, unary, stream)
    times = {call.__name__: Times() for call in calls}
    stop = asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(url, headers={"authorization": f"Bearer {key}"}, timeout=timeout) as session:
        running = [asyncio.create_task(repeated(call, session, times[call.__name__], stop)) for call in calls]
        await asyncio.to_thread(sys.stdin.read)
        stop.set()
        await asyncio.gather(*running)
    return {name: each.summary() for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("key")
    given = parser.parse_args()
    print(json.dumps(asyncio.run(run(given.url, given.key))), flush=True)


if __name__ == "__main__":
    main()
