"""Reads what a server tells of itself at /metrics, as vLLM does. A server without it is asked once."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

from shared.errors import IgniteError
from shared.ports import EngineState
from worker.engines.openai.http_client import Upstream

EVERY = 5.0
"""Seconds between two looks."""

SAMPLE = re.compile(r"^vllm:(\w+)(?:\{[^}\n]*\})? ([0-9.eE+-]+)$", re.MULTILINE)


def state_in(text: str) -> EngineState | None:
    """Returns vLLM's state in Prometheus's text format, summed over its engines; None where there is none. Pure."""
    values: dict[str, list[float]] = {}
    for name, value in SAMPLE.findall(text):
        with suppress(ValueError):
            values.setdefault(name, []).append(float(value))

    def total(name: str) -> int | None:
        return int(sum(values[name])) if name in values else None

    running = total("num_requests_running")
    if running is None:
        return None
    usage = values.get("kv_cache_usage_perc") or values.get("gpu_cache_usage_perc")
    return EngineState(
        running=running,
        waiting=total("num_requests_waiting"),
        kv_cache_usage=max(usage) if usage else None,
        prefix_cache_queries=total("prefix_cache_queries_total"),
        prefix_cache_hits=total("prefix_cache_hits_total"),
        preemptions=total("num_preemptions_total"),
    )


class ServerMetrics:
    """`state`: what the server told last, None before and where it does not tell."""

    def __init__(self) -> None:
        self.state: EngineState | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self, upstream: Upstream) -> None:
        """Looks once, and every few seconds from then on where there was something to see."""
        with suppress(IgniteError):
            self.state = state_in(await upstream.metrics())
        if self.state is not None:
            self._reading = asyncio.create_task(self._read(upstream), name="engine-metrics")

    async def stop(self) -> None:
        self.state = None
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})

    async def _read(self, upstream: Upstream) -> None:
        """A busy server may answer late: until then what it said last holds."""
        while True:
            await asyncio.sleep(EVERY)
            with suppress(IgniteError):
                self.state = state_in(await upstream.metrics()) or self.state
