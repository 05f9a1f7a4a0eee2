"""What is asked of every system."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from benchmarks.accounting import Meter, memory_of
from benchmarks.answers import request_body, text_of
from benchmarks.client import Load, Seen, quantile, run_load
from benchmarks.systems import System

Result = dict[str, Any]
JOB_CLIENTS = 32
JOB_TOKENS = 16


async def loaded(system: System, load: Load) -> tuple[Seen, Result]:
    meter = Meter(system.pids)
    seen = await run_load(system.port, load)
    return seen, {
        "generator_cores": round(seen.generator_cpu, 3),
        "cpu_seconds": {name: round(seconds, 3) for name, seconds in meter.read().items()},
        "calls": seen.calls,
        "all_calls": seen.all_calls,
        "memory_mb": memory_of(system.pids),
    }


def per_thousand(result: Result, tokens: int) -> dict[str, float]:
    """CPU milliseconds of each part per 1000 tokens, warm-up and end included on both sides."""
    return {name: round(seconds / tokens * 1e6, 2) for name, seconds in result["cpu_seconds"].items()}


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


async def streams(system: System) -> Result:
    """100 at a time, 64 tokens, as fast as they come."""
    load = Load(connections=100, tokens=64, seconds=4, warm_up=1)
    seen, result = await loaded(system, load)
    return result | {
        "value": round(seen.tokens / seen.elapsed),
        "cpu_ms_per_1000": per_thousand(result, seen.all_calls * load.tokens),
        "first_p50_ms": milliseconds(quantile(seen.first, 0.5)),
    }


async def paced(system: System) -> Result:
    """200 at a time, a token every 20 ms."""
    load = Load(connections=200, tokens=64, seconds=5, warm_up=2.6, itl=20, ramp=1.28)
    seen, result = await loaded(system, load)
    return result | {
        "value": round(seen.tokens / seen.elapsed),
        "cpu_ms_per_1000": per_thousand(result, seen.all_calls * load.tokens),
        "first_p50_ms": milliseconds(quantile(seen.first, 0.5)),
        "first_p99_ms": milliseconds(quantile(seen.first, 0.99)),
        "gap_p99_ms": milliseconds(quantile(seen.gaps, 0.99)),
    }


async def unary(system: System) -> Result:
    """64 at a time, 16 tokens."""
    seen, result = await loaded(system, Load(connections=64, tokens=16, seconds=3, warm_up=1, stream=False))
    per_call = {name: round(value / seen.all_calls * 1e3, 3) for name, value in result["cpu_seconds"].items()}
    return result | {
        "value": round(seen.calls / seen.elapsed),
        "cpu_ms_per_call": per_call,
        "latency_p50_ms": milliseconds(quantile(seen.latencies, 0.5)),
        "latency_p99_ms": milliseconds(quantile(seen.latencies, 0.99)),
    }


async def open_streams(system: System, count: int = 10_000, seconds: float = 15.0) -> Result:
    """Many at once, a token a second each."""
    before = memory_of(system.pids)
    ramp = max(2.0, count / 500)
    load = Load(connections=count, tokens=int(seconds + ramp) + 2, seconds=seconds, warm_up=ramp, itl=1000, ramp=ramp)
    watching = asyncio.create_task(most_memory(system, before, load.warm_up + seconds / 2))
    seen, result = await loaded(system, load)
    most = await watching
    return result | {
        "value": count,
        "memory_before_mb": before,
        "memory_most_mb": most,
        "kb_per_stream": {name: round((most[name] - before[name]) * 1024 / count, 1) for name in most},
        "cpu_ms_per_1000": per_thousand(result, seen.all_calls * load.tokens),
        "missed_paces": sum(gap > 1.5 for gap in seen.gaps),
        "paces": len(seen.gaps),
        "first_p50_ms": milliseconds(quantile(seen.first, 0.5)),
        "gap_p99_ms": milliseconds(quantile(seen.gaps, 0.99)),
    }


async def most_memory(system: System, before: dict[str, float], after: float) -> dict[str, float]:
    """When all are open and half of the time has passed."""
    await asyncio.sleep(after)
    now = memory_of(system.pids)
    return {name: max(before[name], now[name]) for name in now}


async def idle(system: System) -> Result:
    """Ten seconds in which nobody asks anything."""
    await asyncio.sleep(2)
    meter, commands = Meter(system.pids), commands_at(system)
    await asyncio.sleep(10)
    cpu = {name: round(seconds / 10 * 100, 2) for name, seconds in meter.read().items()}
    return {
        "value": round(sum(cpu.values()), 2),
        "cpu_percent": cpu,
        "redis_commands_per_second": round((commands_at(system) - commands) / 10, 1),
        "memory_mb": memory_of(system.pids),
    }


def commands_at(system: System) -> int:
    if system.redis is None:
        return 0
    with system.redis.client() as client:
        return int(client.info("stats")["total_commands_processed"])


async def jobs(system: System, count: int = 2000) -> Result:
    """Background jobs: submitted by 32 clients, run meanwhile; each is looked at afterwards."""
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{system.port}", connector=aiohttp.TCPConnector(limit=JOB_CLIENTS)
    ) as session:
        alone = [await one_job(session, seed) for seed in range(100)]
        meter, began = Meter(system.pids), time.perf_counter()
        ids = await in_parallel(count, lambda seed: submit(session, seed))
        submitted = time.perf_counter() - began
        await in_parallel(JOB_CLIENTS, lambda at: ended(session, ids[-1 - at]))
        await in_parallel(count, lambda seed: check(session, seed, ids[seed]))
        drained = time.perf_counter() - began
        cpu = meter.read()
    return {
        "value": round(count / submitted),
        "drained_per_second": round(count / drained),
        "job_p50_ms": milliseconds(sorted(alone)[len(alone) // 2]),
        "cpu_ms_per_job": {name: round(seconds / count * 1e3, 3) for name, seconds in cpu.items()},
    }


async def in_parallel(count: int, work: Callable[[int], Awaitable[Any]]) -> list[Any]:
    results: list[Any] = [None] * count
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            results[number] = await work(number)

    await asyncio.gather(*(client() for _ in range(JOB_CLIENTS)))
    return results


async def submit(session: aiohttp.ClientSession, seed: int) -> str:
    body = request_body(seed, JOB_TOKENS, stream=False, itl=0, background=True)
    async with session.post("/v1/chat/completions", data=body, headers={"content-type": "application/json"}) as answer:
        assert answer.status == 202, await answer.text()
        return (await answer.json())["id"]


async def ended(session: aiohttp.ClientSession, job_id: str) -> None:
    while True:
        async with session.get(f"/v1/jobs/{job_id}?wait=30") as answer:
            status = (await answer.json())["status"]
        if status not in ("queued", "in_progress"):
            assert status == "completed", status
            return


async def check(session: aiohttp.ClientSession, seed: int, job_id: str) -> None:
    await ended(session, job_id)
    async with session.get(f"/v1/jobs/{job_id}/result") as answer:
        assert answer.status == 200, await answer.text()
        text = (await answer.json())["choices"][0]["message"]["content"]
    assert text == text_of(seed % 1000, JOB_TOKENS), text


async def one_job(session: aiohttp.ClientSession, seed: int) -> float:
    """Seconds from submitting a job to having its result."""
    began = time.perf_counter()
    job_id = await submit(session, seed)
    await check(session, seed, job_id)
    return time.perf_counter() - began


WORKLOADS: dict[str, Callable[[System], Awaitable[Result]]] = {
    "streams": streams,
    "paced": paced,
    "unary": unary,
    "jobs": jobs,
    "open": open_streams,
    "idle": idle,
}
ONLY_IGNITE = {"jobs", "open", "idle"}
ONCE = {"open", "idle"}
"""One round is enough: what they say does not hang on the moment."""
