"""An interactive call overtakes flex jobs inside the engine's own queue, where the engine schedules by priority."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from tests.support.chat import session_with
from tests.support.cluster import Cluster
from tests.vllm.server import Vllm

FLOOD = 48
"""Jobs: of these the worker sends all at once, and the engine runs two."""

TOKENS = 300


def body(tier: str, seed: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "simulated",
        "messages": [{"role": "user", "content": f"the quick brown fox {seed}"}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "service_tier": tier,
        **more,
    }


async def call(session: aiohttp.ClientSession, asked: dict[str, Any]) -> float:
    """When the answer was there."""
    async with session.post("/v1/chat/completions", json=asked) as response:
        assert response.status == 200, await response.text()
        await response.read()
        return time.monotonic()


async def ranks(cluster: Cluster, server: Vllm, *options: str) -> list[int]:
    """How many of a flood of flex jobs were done before each of four interactive calls that came after it."""
    engine = ("--engine", "openai", "--engine-url", server.url, "--model", server.model, "--model-id", "simulated")
    room = ("--concurrency", "64", "--reserved-slots", "0")
    api, _ = await asyncio.gather(cluster.api(), cluster.worker(*engine, *room, *options))
    async with session_with(api.url) as session:
        await call(session, body("default", 0, max_tokens=1))  # From here on its queue is known.
        flood = [asyncio.create_task(call(session, body("flex", seed))) for seed in range(FLOOD)]
        await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        began = time.monotonic()
        urgent = [await call(session, body("default", 100 + seed, max_tokens=10)) for seed in range(4)]
        done = [await each for each in flood]
    print(f"{[*options]}: four interactive calls took {urgent[-1] - began:.1f} s, the flood {max(done) - began:.1f} s")
    return [sum(each < at for each in done) for at in urgent]


async def test_interactive_calls_overtake_a_flood_in_the_engines_queue(cluster: Cluster, trimming: Vllm) -> None:
    if trimming.process is None:
        pytest.skip("it needs a vLLM that schedules by priority, with few sequences at a time")
    overtaking = await ranks(cluster, trimming)
    assert overtaking[0] <= FLOOD // 4, "the first one had to wait for a slot of the engine only"
    assert overtaking[-1] <= FLOOD // 2, "half of the flood was still waiting behind the last one"


async def test_without_priority_they_wait_behind_it(cluster: Cluster, trimming: Vllm) -> None:
    if trimming.process is None:
        pytest.skip("it needs a vLLM that schedules by priority, with few sequences at a time")
    waiting = await ranks(cluster, trimming, "--engine-omit", "priority")
    assert waiting[0] >= FLOOD - 4, "the first one came after the whole flood"


async def test_a_client_does_not_choose_its_place(cluster: Cluster, trimming: Vllm) -> None:
    """Its own `priority` is replaced by that of the job's tier."""
    if trimming.process is None:
        pytest.skip("it needs a vLLM that schedules by priority, with few sequences at a time")
    engine = ("--engine", "openai", "--engine-url", trimming.url, "--model", trimming.model, "--model-id", "simulated")
    api, _ = await asyncio.gather(
        cluster.api(), cluster.worker(*engine, "--concurrency", "64", "--reserved-slots", "0")
    )
    async with session_with(api.url) as session:
        flood = [asyncio.create_task(call(session, body("default", seed))) for seed in range(FLOOD)]
        await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        pushing = await call(session, body("flex", 200, priority=-1000, max_tokens=5))
        done = [await each for each in flood]
    assert sum(each < pushing for each in done) >= FLOOD - 4
