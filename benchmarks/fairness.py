"""Two tenants and a burst: what a flood of one does to the interactive calls of the other.

    python -m benchmarks.fairness [--jobs 10000] [--seconds 10]

An API and one worker on a RabbitMQ and a Redis of their own, the simulated engine. Interactive calls are streams in
tier default, a few at a time; measured is the time to the first word. Each scenario has its own processes and queues.
Only the ratios to the idle run mean anything beyond this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.cluster import Api, Cluster, running_cluster
from tests.support.rabbitmq import RabbitMQ, find_rabbitmq, rabbitmq_on_this_machine
from tests.support.redis import Redis, find_redis, redis_on_this_machine

SLOTS = 16
CALLERS = 4
SUBMITTERS = 32
FLOOD, LIVE = "sk-flood-123-0123456789", "sk-live-456-0123456789"
KEYS = {"IGNITE_API_KEYS": f"flood={FLOOD},live={LIVE}"}
FLOOD_JOB = {"tokens": 20, "itl": 20}
CALL = {"tokens": 10, "itl": 10}
PATIENCE = 10.0
"""Seconds after which a caller gives up. Such a call counts as slower than that."""


@dataclass(frozen=True)
class Scenario:
    name: str
    flood_tier: str | None = None
    fair: bool = True


SCENARIOS = (
    Scenario("idle"),
    Scenario("flood in tier flex", "flex"),
    Scenario("flood in the same tier", "default"),
    Scenario("flood in the same tier, fairness off", "default", fair=False),
)


def body(tokens: int, itl: int, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": f"seed=1 itl={itl}"}
    return {"model": "simulated", "max_tokens": tokens, "messages": [message], **more}


@asynccontextmanager
async def session_of(api: Api, key: str) -> AsyncGenerator[aiohttp.ClientSession]:
    wire = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(api.url, headers=headers, connector=wire) as session:
        yield session


async def flood(session: aiohttp.ClientSession, jobs: int, tier: str) -> None:
    left = iter(range(jobs))
    request = body(**FLOOD_JOB, background=True, service_tier=tier)

    async def submit() -> None:
        for _ in left:
            async with session.post("/v1/chat/completions", json=request) as response:
                assert response.status == 202, await response.text()

    await asyncio.gather(*(submit() for _ in range(SUBMITTERS)))


async def first_word(session: aiohttp.ClientSession) -> float:
    """Returns the seconds until the first word, infinite if it did not come in time. Reads the stream to its end."""
    began, first = time.perf_counter(), math.inf
    try:
        async with (
            asyncio.timeout(PATIENCE),
            session.post("/v1/chat/completions", json=body(**CALL, stream=True)) as response,
        ):
            assert response.status == 200, await response.text()
            async for line in response.content:
                if b'"content":" t' in line:
                    first = min(first, time.perf_counter() - began)
    except TimeoutError:
        pass
    return first


async def calls(session: aiohttp.ClientSession, seconds: float) -> list[float]:
    """Returns the times of all calls that a few callers make one after another."""
    until, times = time.perf_counter() + seconds, list[float]()

    async def call_on() -> None:
        while time.perf_counter() < until:
            times.append(await first_word(session))

    await asyncio.gather(*(call_on() for _ in range(CALLERS)))
    return times


async def measured(cluster: Cluster, scenario: Scenario, jobs: int, seconds: float) -> list[float]:
    fairness = ("--fairness", str(scenario.fair).lower())
    api, _ = await asyncio.gather(
        cluster.api(*fairness, **KEYS), cluster.worker(*fairness, "--concurrency", str(SLOTS))
    )
    async with session_of(api, FLOOD) as flooding, session_of(api, LIVE) as live:
        await calls(live, 1.0)  # Both sides have done everything once.
        if scenario.flood_tier is not None:
            await flood(flooding, jobs, scenario.flood_tier)
        return await calls(live, seconds)


def quantile(times: Sequence[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def shown(seconds: float) -> str:
    return f"> {PATIENCE * 1000:.0f}" if math.isinf(seconds) else f"{seconds * 1000:.1f}"


def report(name: str, times: Sequence[float], idle: Sequence[float]) -> str:
    p50, p99 = quantile(times, 0.5), quantile(times, 0.99)
    ratios = [now / before for now, before in ((p50, quantile(idle, 0.5)), (p99, quantile(idle, 0.99)))]
    shares = [f"> {PATIENCE / quantile(idle, 0.5):.0f}" if math.isinf(ratio) else f"{ratio:.1f}" for ratio in ratios]
    return f"| {name} | {len(times)} | {shown(p50)} | {shown(p99)} | {shares[0]} | {shares[1]} |"


@asynccontextmanager
async def servers() -> AsyncGenerator[tuple[RabbitMQ, Redis]]:
    rabbitmq_launcher, redis_launcher = find_rabbitmq(), find_redis()
    if rabbitmq_launcher is None or redis_launcher is None:
        raise SystemExit("RabbitMQ and Redis are needed: scripts/install-servers.sh")
    with tempfile.TemporaryDirectory() as directory:
        rabbitmq = rabbitmq_on_this_machine(rabbitmq_launcher, Path(directory))
        redis = redis_on_this_machine(redis_launcher, Path(directory))
        try:
            await asyncio.gather(rabbitmq.start(), redis.start())
            yield rabbitmq, redis
        finally:
            await asyncio.gather(rabbitmq.close(), redis.close())


async def main(jobs: int, seconds: float) -> None:
    print(f"{jobs} jobs in the flood, {SLOTS} slots, {CALLERS} callers, {seconds:g} s each; time to first word in ms\n")
    print("| scenario | calls | p50 | p99 | p50 / idle | p99 / idle |\n|---|---|---|---|---|---|")
    idle: list[float] = []
    async with servers() as (rabbitmq, redis):
        for scenario in SCENARIOS:
            vhost = rabbitmq.create_vhost()
            async with running_cluster(rabbitmq.url(vhost), redis.url(redis.fresh_database())) as cluster:
                times = await measured(cluster, scenario, jobs, seconds)
                idle = idle or times
                print(report(scenario.name, times, idle), flush=True)
            rabbitmq.delete_vhost(vhost)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000, help="in the flood")
    parser.add_argument("--seconds", type=float, default=10.0, help="for which calls are made in each scenario")
    asked = parser.parse_args()
    asyncio.run(main(asked.jobs, asked.seconds))
