"""How cost grows with the work: open streams from 1 to 10,000, queued jobs from 1 to as many as asked for.

    .venv/bin/python -m benchmarks.curves [--streams 10000] [--jobs 1000000]

Figures go to results/curves.json; streams-*.svg and queued-jobs.svg in docs/explanation/ are drawn from them.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.accounting import Meter, memory_of, raise_open_files
from benchmarks.client import submit
from benchmarks.crowd import Crowd, gathered
from benchmarks.systems import Distributed, bare, distributed, servers
from benchmarks.workloads import JOB_TOKENS
from tests.support.server import free_ports

RESULTS = Path(__file__).parent / "results" / "curves.json"
DOCS = Path(__file__).parent.parent / "docs" / "explanation"
STREAMS = (1, 10, 100, 200, 1_000, 3_000, 10_000)
JOBS = (1, 10, 100, 1_000, 10_000, 30_000, 100_000, 300_000, 600_000, 1_000_000)
TOKENS_A_SECOND, QUICKEST_PACE = 2_000, 20
SUBMITTERS = 64
COLOURS = {
    "api": "#4269d0",
    "worker": "#efb118",
    "redis": "#ff725c",
    "rabbitmq": "#3ca951",
    "all": "#333",
    "p50": "#4269d0",
    "p99": "#ff725c",
}


def pace_of(streams: int) -> int:
    """Returns the milliseconds per token at which all streams together get 2,000 tokens a second."""
    return max(QUICKEST_PACE, streams * 1000 // TOKENS_A_SECOND)


async def streams_curve(most: int, directory: Path, processes: int) -> list[dict[str, Any]]:
    """Measures that many open streams: memory, CPU per token, and the additional time to the first token compared with
    the bare server.
    """
    points: list[dict[str, Any]] = []
    async with distributed(directory, processes) as system, bare(directory) as other:
        for streams in (step for step in STREAMS if step <= most):
            wanted = Crowd(streams, pace_of(streams), watched=6.0, probed=6.0)
            beside, result = await gathered(other, replace(wanted, watched=1.0)), await gathered(system, wanted)
            added = {p: max(0.0, result[f"probe_{p}_ms"] - beside[f"probe_{p}_ms"]) for p in ("p50", "p99")}
            cpu = result["steady_cpu_ms_per_1000"]
            points.append({"at": streams, "added_ms": added, "cpu": {**cpu, "all": sum(cpu.values())}, **result})
            print(json.dumps(points[-1]), flush=True)
    return points


async def jobs_curve(most: int, directory: Path, processes: int) -> list[dict[str, Any]]:
    """Measures memory with that many waiting jobs, and how fast the last ones were accepted. No worker runs. Several
    API processes count as one.
    """
    (port,) = free_ports(1)
    points: list[dict[str, Any]] = []
    async with servers(directory) as (env, pids, _), Distributed(directory, env, processes).api(port) as api:
        roots = {"api": api.pid, **pids}
        done = 0
        for waiting in (step for step in JOBS if step <= most):
            began, meter = time.perf_counter(), Meter(roots)
            await submit(port, waiting - done, JOB_TOKENS, SUBMITTERS)
            taken = time.perf_counter() - began
            cpu = {name: seconds / (waiting - done) * 1000 for name, seconds in meter.read().items()}
            per_second = round((waiting - done) / taken)
            points.append(
                {"at": waiting, "per_second": per_second, "cpu_ms_per_job": cpu, "memory_mb": memory_of(roots)}
            )
            print(json.dumps(points[-1]), flush=True)
            done = waiting
    return points


# ── drawing ──

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 360, 70, 50, 40, 110


def drawing(title: str, x_label: str, y_label: str, lines: dict[str, Sequence[tuple[float, float]]]) -> str:
    """Draws a plot with logarithmic axes, as SVG."""
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
    label_at = float(HEIGHT)
    for name, line in sorted(lines.items(), key=lambda named: named[1][-1][1]):
        places = [place(x, y) for x, y in line if y > 0]
        if not places:
            continue
        label_at = min(places[-1][1] + 4, label_at - 14)  # names do not cover each other
        path = " ".join(f"{x},{y}" for x, y in places)
        colour = COLOURS.get(name, "#333")
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        drawn.append(f'<text x="{places[-1][0] + 8}" y="{label_at}" fill="{colour}">{name}</text>')
    return "\n".join([*drawn, "</svg>", ""])


def axis(values: Sequence[float]) -> tuple[int, int]:
    """Returns the powers of ten around the values."""
    least, most = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return least, max(most, least + 1)


@dataclass(frozen=True, slots=True)
class Picture:
    curve: str
    figure: str
    file: str
    title: str
    across: str
    up: str


PICTURES = (
    Picture("streams", "memory_most_mb", "streams-memory", "Memory with open streams", "open streams", "MB"),
    Picture(
        "streams", "cpu", "streams-cpu", "CPU per 1000 tokens, up to 2,000 tokens a second in all", "open streams", "ms"
    ),
    Picture("streams", "added_ms", "streams-first-token", "Added to the time to the first token", "open streams", "ms"),
    Picture("jobs", "memory_mb", "queued-jobs", "Memory with queued jobs, no worker", "queued jobs", "MB"),
)


def draw(results: dict[str, list[dict[str, Any]]]) -> None:
    for picture in PICTURES:
        if points := results.get(picture.curve):
            parts = [part for part in COLOURS if part in points[0][picture.figure]]
            lines = {part: [(each["at"], each[picture.figure][part]) for each in points] for part in parts}
            drawn = drawing(picture.title, picture.across, picture.up, lines)
            (DOCS / f"{picture.file}.svg").write_text(drawn)


async def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="ignite-bench-", ignore_cleanup_errors=True) as directory:
        for name, most, curve in (("streams", options.streams, streams_curve), ("jobs", options.jobs, jobs_curve)):
            if most:
                home = Path(directory) / name
                home.mkdir()
                results[name] = await curve(most, home, options.processes)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000, help="0: not at all")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="0: not at all")
    parser.add_argument("--draw", action="store_true", help="only draw what was measured before")
    parser.add_argument("--processes", type=int, default=1, help="API processes, and as many workers")
    options = parser.parse_args()
    raise_open_files()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = kept if options.draw else kept | uvloop.run(measure(options))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1))
    draw(results)


if __name__ == "__main__":
    main()
