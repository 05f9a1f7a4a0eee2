"""The workloads, which are the same for every system."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from benchmarks.accounting import Meter, memory_of
from benchmarks.answers import request_body, text_of
from benchmarks.client import Load, Seen, quantile, run_load
from benchmarks.crowd import crowd, milliseconds, per_thousand
from benchmarks.systems import System

Result = dict[str, Any]
JOB_CLIENTS = 32
JOB_TOKENS = 16
IDLE = 30.0


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


async def streams(system: System) -> Result:
    """100 streams at a time, 64 tokens each, as fast as possible."""
    load = Load(connections=100, tokens=64, seconds=4, warm_up=1)
    seen, result = await loaded(system, load)
    return result | {
        "value": round(seen.tokens / seen.elapsed),
        "cpu_ms_per_1000": per_thousand(result["cpu_seconds"], seen.all_calls * load.tokens),
        "first_p50_ms": milliseconds(quantile(seen.first, 0.5)),
    }


async def paced(system: System) -> Result:
    """200 streams at a time, one token every 20 ms."""
    load = Load(connections=200, tokens=64, seconds=5, warm_up=2.6, itl=20, ramp=1.28)
    seen, result = await loaded(system, load)
    return result | {
        "value": round(seen.tokens / seen.elapsed),
        "cpu_ms_per_1000": per_thousand(result["cpu_seconds"], seen.all_calls * load.tokens),
        "first_p50_ms": milliseconds(quantile(seen.first, 0.5)),
        "first_p99_ms": milliseconds(quantile(seen.first, 0.99)),
        "gap_p99_ms": milliseconds(quantile(seen.gaps, 0.99)),
    }


async def unary(system: System) -> Result:
    """64 unary calls at a time, 16 tokens each."""
    seen, result = await loaded(system, Load(connections=64, tokens=16, seconds=3, warm_up=1, stream=False))
    per_call = {name: round(value / seen.all_calls * 1e3, 3) for name, value in result["cpu_seconds"].items()}
    return result | {
        "value": round(seen.calls / seen.elapsed),
        "cpu_ms_per_call": per_call,
        "latency_p50_ms": milliseconds(quantile(seen.latencies, 0.5)),
        "latency_p99_ms": milliseconds(quantile(seen.latencies, 0.99)),
    }


async def start(system: System) -> Result:
    """Seconds from the start of a process until it is ready. It was started once before."""
    return {"value": round(max(system.starts.values()), 2), "seconds": system.starts}


async def idle(system: System) -> Result:
    """Half a minute without calls."""
    await asyncio.sleep(2)
    meter, commands = Meter(system.pids), commands_at(system)
    await asyncio.sleep(IDLE)
    cpu = {name: round(seconds * 60_000 / IDLE) for name, seconds in meter.read().items()}
    return {
        "value": sum(cpu.values()),
        "cpu_ms_per_minute": cpu,
        "redis_commands_per_second": round((commands_at(system) - commands) / IDLE, 1),
        "memory_mb": memory_of(system.pids),
    }


def commands_at(system: System) -> int:
    if system.redis is None:
        return 0
    with system.redis.client() as client:
        return int(client.info("stats")["total_commands_processed"])


async def jobs(system: System, count: int = 2000) -> Result:
    """Background jobs, submitted by 32 clients while they run. Each is checked afterwards."""
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
    """Seconds from the submit of a job to its result."""
    began = time.perf_counter()
    job_id = await submit(session, seed)
    await check(session, seed, job_id)
    return time.perf_counter() - began


WORKLOADS: dict[str, Callable[[System], Awaitable[Result]]] = {
    "start": start,
    "streams": streams,
    "paced": paced,
    "unary": unary,
    "jobs": jobs,
    "crowd": crowd,
    "idle": idle,
}
ONLY_IGNITE = {"jobs"}
ONCE = {"start", "crowd", "idle"}
"""Workloads with one round, because their results vary little."""
