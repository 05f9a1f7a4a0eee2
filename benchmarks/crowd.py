"""Many open streams, each at a slow pace: their memory, and the lateness of their tokens."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.accounting import Meter, memory_of
from benchmarks.client import Load, Seen, quantile, run_load
from benchmarks.systems import System

Result = dict[str, Any]
OPENED_A_SECOND = 500
LOOKS = 4
"""How often memory is read while all streams are open; the highest value counts."""

PROBES = Load(connections=10, tokens=13, seconds=0.0, warm_up=0.5, itl=20, ramp=0.25)
"""Short calls, about 35 a second, that measure the time to the first token while the streams are open."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """`streams` that open within `ramp`, stay open while they are watched and probed, and end. `itl` in milliseconds,
    other times in seconds.
    """

    streams: int
    itl: int = 1000
    watched: float = 20.0
    probed: float = 0.0

    @property
    def ramp(self) -> float:
        return max(2.0, self.streams / OPENED_A_SECOND)

    @property
    def load(self) -> Load:
        open_for = self.ramp + self.watched + (PROBES.warm_up + self.probed + 1.0 if self.probed else 0.0)
        return Load(
            connections=self.streams,
            tokens=math.ceil(open_for * 1000 / self.itl) + 1,
            seconds=self.watched,
            warm_up=self.ramp,
            itl=self.itl,
            ramp=self.ramp,
            once=True,
        )


async def crowd(system: System) -> Result:
    """10,000 streams with one token per second each."""
    return await gathered(system, Crowd(10_000))


async def gathered(system: System, wanted: Crowd) -> Result:
    await warm_up(system)
    idle, meter, seen = memory_of(system.pids), Meter(system.pids), Seen()
    running = asyncio.create_task(run_load(system.port, wanted.load, seen))
    await asyncio.sleep(wanted.ramp)
    steady, tokens = Meter(system.pids), seen.tokens
    most = await most_memory(system, idle, wanted.watched)
    steady_cpu, tokens = steady.read(), seen.tokens - tokens
    probes = await run_load(system.port, replace(PROBES, seconds=wanted.probed)) if wanted.probed else Seen()
    await running
    whole = wanted.streams * wanted.load.tokens
    return {
        "value": wanted.streams,
        "itl_ms": wanted.itl,
        "memory_idle_mb": idle,
        "memory_most_mb": most,
        "kb_per_stream": {name: round((most[name] - idle[name]) * 1024 / wanted.streams, 1) for name in most},
        "cpu_ms_per_1000": per_thousand(meter.read(), whole),
        "steady_cpu_ms_per_1000": per_thousand(steady_cpu, tokens),
        "steady_cores": {name: round(seconds / wanted.watched, 3) for name, seconds in steady_cpu.items()},
        "generator_cores": round(seen.generator_cpu, 3),
        "tokens": whole,
        "missed_paces": sum(late > wanted.itl / 1000 for late in seen.late),
        "late_p50_ms": milliseconds(quantile(seen.late, 0.5)),
        "late_p99_ms": milliseconds(quantile(seen.late, 0.99)),
        "late_most_ms": milliseconds(max(seen.late)),
        "first_p50_ms": milliseconds(quantile(seen.first, 0.5)),
        "first_p99_ms": milliseconds(quantile(seen.first, 0.99)),
        "probes": len(probes.first),
        "probe_p50_ms": milliseconds(quantile(probes.first, 0.5)),
        "probe_p99_ms": milliseconds(quantile(probes.first, 0.99)),
    }


async def warm_up(system: System) -> None:
    """Makes some calls, so that what they load and allocate does not count."""
    await run_load(system.port, Load(connections=20, tokens=16, seconds=1.0, warm_up=0.0))
    await asyncio.sleep(1.0)


async def most_memory(system: System, idle: dict[str, float], seconds: float) -> dict[str, float]:
    """Reads memory in a thread, because the kernel needs time for large processes and the load must go on."""
    most = idle
    for _ in range(LOOKS):
        await asyncio.sleep(seconds / LOOKS)
        now = await asyncio.to_thread(memory_of, system.pids)
        most = {name: max(most[name], now[name]) for name in now}
    return most


def per_thousand(cpu_seconds: dict[str, float], tokens: int) -> dict[str, float]:
    """Returns the CPU milliseconds of each part per 1000 tokens."""
    return {name: round(seconds / tokens * 1e6, 2) for name, seconds in cpu_seconds.items()}


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
