"""Measures Ignite against bare servers, in turn, on this machine.

make bench                                        all workloads, five rounds
make bench ARGS="--rounds 5 --only streams,unary"
make bench ARGS="--processes 2 --systems bare,distributed"
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.accounting import raise_open_files
from benchmarks.report import parts, table
from benchmarks.systems import System, bare, bare_fastapi, distributed, embedded
from benchmarks.workloads import ONCE, ONLY_IGNITE, WORKLOADS

RESULTS = Path(__file__).parent / "results"
SYSTEMS = ("bare", "fastapi", "distributed", "embedded")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(WORKLOADS), help="workloads, comma-separated")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="systems, comma-separated")
    parser.add_argument("--processes", type=int, default=1, help="API processes, and as many workers")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench.json", help="where the figures go")
    return parser.parse_args()


async def start(stack: AsyncExitStack, name: str, directory: Path, processes: int) -> System:
    home = directory / name
    home.mkdir()
    makers = {"bare": bare, "fastapi": bare_fastapi, "embedded": embedded}
    if name == "distributed":
        return await stack.enter_async_context(distributed(home, processes))
    return await stack.enter_async_context(makers[name](home))


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ignite-bench-", ignore_cleanup_errors=True) as directory:
        async with AsyncExitStack() as stack:
            systems = [
                await start(stack, name, Path(directory), options.processes) for name in options.systems.split(",")
            ]
            for workload in options.only.split(","):
                for round_ in range(1 if workload in ONCE else options.rounds):
                    for system in systems:
                        if workload in ONLY_IGNITE and system.name in ("bare", "fastapi"):
                            continue
                        records.append(await one(workload, round_, system))
    return records


async def one(workload: str, round_: int, system: System) -> dict[str, Any]:
    result = await WORKLOADS[workload](system)
    record = {"workload": workload, "round": round_, "system": system.name, "load": os.getloadavg()[0], **result}
    print(json.dumps(record), flush=True)
    await asyncio.sleep(0.3)
    return record


def main() -> None:
    options = arguments()
    raise_open_files()
    records = uvloop.run(measure(options))
    options.out.parent.mkdir(exist_ok=True)
    about = {"machine": platform.platform(), "cores": os.cpu_count(), "processes": options.processes}
    options.out.write_text(json.dumps({"about": about, "records": records}, indent=1))
    print(f"\n{table(records)}\n\n{parts(records)}\n\nfigures: {options.out}")


if __name__ == "__main__":
    main()
