"""How cost grows with the work: open streams from 1 to 10,000, queued jobs from 1 to as many as asked for.

    .venv/bin/python -m benchmarks.curves [--streams 10000] [--jobs 1000000]

Figures go to results/curves.json; docs/streams.svg and docs/queued-jobs.svg are drawn from them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks.accounting import Meter, memory_of
from benchmarks.systems import Distributed, distributed, servers
from benchmarks.workloads import JOB_CLIENTS, open_streams, submit
from tests.support.server import free_ports

RESULTS = Path(__file__).parent / "results" / "curves.json"
DOCS = Path(__file__).parent.parent / "docs"
STEPS = (1, 10, 100, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
SECONDS = 10.0
PARTS = ("api", "worker", "redis", "rabbitmq")
COLOURS = {"api": "#4269d0", "worker": "#efb118", "redis": "#ff725c", "rabbitmq": "#6cc5b0"}


async def streams_curve(most: int, directory: Path) -> list[dict[str, Any]]:
    """CPU while so many streams get a token a second each, and memory with all of them open."""
    points: list[dict[str, Any]] = []
    async with distributed(directory) as system:
        for streams in (step for step in STEPS if step <= most):
            result = await open_streams(system, streams, SECONDS)
            seconds = sum(result["cpu_seconds"].values())
            print(json.dumps(result), flush=True)
            points.append({"at": streams, "total_cpu_seconds": seconds, **result})
    return points


async def jobs_curve(most: int, directory: Path) -> list[dict[str, Any]]:
    """Memory of each process with so many jobs waiting, and how fast the last ones were taken. No worker is up."""
    (port,) = free_ports(1)
    points: list[dict[str, Any]] = []
    async with servers(directory) as (env, pids, _), Distributed(directory, env, 1).api(port) as api:
        roots = {"api": api.pid, **pids}
        connector = aiohttp.TCPConnector(limit=JOB_CLIENTS)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as session:
            done = 0
            for waiting in (step for step in STEPS if step <= most):
                began, meter = time.perf_counter(), Meter(roots)
                await submit_all(session, waiting - done)
                taken = time.perf_counter() - began
                cpu = {name: seconds / (waiting - done) * 1000 for name, seconds in meter.read().items()}
                points.append(
                    {
                        "at": waiting,
                        "per_second": round((waiting - done) / taken),
                        "cpu_ms_per_job": cpu,
                        "memory_mb": memory_of(roots),
                    }
                )
                print(json.dumps(points[-1]), flush=True)
                done = waiting
    return points


async def submit_all(session: aiohttp.ClientSession, jobs: int) -> None:
    numbers = count()

    async def client() -> None:
        while next(numbers) < jobs:
            await submit(session, 7)

    await asyncio.gather(*(client() for _ in range(min(JOB_CLIENTS, jobs))))


# ── drawing ──

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 360, 70, 50, 40, 110


def drawing(title: str, x_label: str, y_label: str, lines: dict[str, Sequence[tuple[float, float]]]) -> str:
    """A plot with both axes logarithmic, as SVG."""
    points = [point for line in lines.values() for point in line if point[1] > 0]
    x_axis, y_axis = axis([x for x, _ in points]), axis([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(x) - x_axis[0]) / (x_axis[1] - x_axis[0])
        down = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (math.log10(y) - y_axis[0]) / (y_axis[1] - y_axis[0])
        return round(across, 1), round(down, 1)

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14" font-weight="bold">{title}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) // 2}" y="{HEIGHT - 12}" text-anchor="middle">{x_label}</text>',
        f'<text x="14" y="{HEIGHT // 2}" transform="rotate(-90 14 {HEIGHT // 2})" text-anchor="middle">'
        f"{y_label}</text>",
    ]
    for power in range(x_axis[0], x_axis[1] + 1):
        x, _ = place(10**power, 10 ** y_axis[0])
        drawn.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        drawn.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{10**power:,}</text>')
    for power in range(y_axis[0], y_axis[1] + 1):
        _, y = place(10 ** x_axis[0], 10**power)
        drawn.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{10**power:,g}</text>')
    for name, line in lines.items():
        places = [place(x, y) for x, y in line if y > 0]
        if not places:
            continue
        path = " ".join(f"{x},{y}" for x, y in places)
        colour = COLOURS.get(name, "#333")
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        drawn.append(f'<text x="{places[-1][0] + 8}" y="{places[-1][1] + 4}" fill="{colour}">{name}</text>')
    return "\n".join([*drawn, "</svg>", ""])


def axis(values: Sequence[float]) -> tuple[int, int]:
    """Powers of ten around the values."""
    least, most = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return least, max(most, least + 1)


PICTURES = (
    (
        "streams",
        "memory_most_mb",
        "streams-memory",
        "Memory with open streams, a token a second each",
        "open streams",
        "MB",
    ),
    ("streams", "cpu_ms_per_1000", "streams-cpu", "CPU per 1000 tokens, a token a second each", "streams", "ms"),
    ("jobs", "memory_mb", "queued-jobs", "Memory with queued jobs, no worker", "queued jobs", "MB"),
)
"""Curve, figure, file, title, and what the axes say."""


def draw(results: dict[str, list[dict[str, Any]]]) -> None:
    for curve, figure, file, title, across, up in PICTURES:
        if points := results.get(curve):
            parts = [part for part in PARTS if part in points[0][figure]]
            lines = {part: [(each["at"], each[figure][part]) for each in points] for part in parts}
            (DOCS / f"{file}.svg").write_text(drawing(title, across, up, lines))


async def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="ignite-bench-", ignore_cleanup_errors=True) as directory:
        for name, most, curve in (("streams", options.streams, streams_curve), ("jobs", options.jobs, jobs_curve)):
            if most:
                home = Path(directory) / name
                home.mkdir()
                results[name] = await curve(most, home)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000, help="0: not at all")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="0: not at all")
    parser.add_argument("--draw", action="store_true", help="only draw what was measured before")
    options = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = kept if options.draw else kept | uvloop.run(measure(options))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1))
    draw(results)


if __name__ == "__main__":
    main()
