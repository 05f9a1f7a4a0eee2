"""How long a healthy client's calls take, and what memory the API needs, while others attack.

make attack                                            every attack, on both backends
make attack ARGS="--only 'a header of 80 MB' --seconds 20 --backends embedded --descriptors 256"
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.support.attacks import ATTACKS
from tests.support.rabbitmq import find_rabbitmq, rabbitmq_on_this_machine
from tests.support.redis import find_redis, redis_on_this_machine
from tests.support.run_process import run_process
from tests.support.siege import ENVIRONMENT, Besieged, Findings, besieged

IGNITE = (sys.executable, "-m", "ignite")
READY = r"ready: (http://\S+)/v1 · gRPC \S+:(\d+)"
RESULTS = Path(__file__).parent / "results"
MEGABYTE = 2**20
BOUND = 0.25
"""Bound of a healthy client's 99th percentile, in seconds."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(ATTACKS), help="an attack; may be repeated")
    parser.add_argument("--backends", default="embedded,distributed", help="comma-separated")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each attack")
    parser.add_argument("--after", type=float, default=30.0, help="seconds until memory is looked at again")
    parser.add_argument("--descriptors", type=int, help="that the server may have open")
    parser.add_argument("--out", type=Path, default=RESULTS / "attacks.json", help="where the figures go")
    return parser.parse_args()


@asynccontextmanager
async def embedded(directory: Path, command: tuple[str, ...]) -> AsyncGenerator[Besieged]:
    options = ("--engine", "simulated", "--port", "0", "--data-dir", str(directory))
    async with run_process(*command, *IGNITE, "up", *options, env=ENVIRONMENT) as process:
        found = await process.wait_for(READY)
        yield Besieged(found[1], int(found[2]), process.pid)


@asynccontextmanager
async def distributed(directory: Path, command: tuple[str, ...]) -> AsyncGenerator[Besieged]:
    rabbitmq_launcher, redis_launcher = find_rabbitmq(), find_redis()
    if rabbitmq_launcher is None or redis_launcher is None:
        raise RuntimeError("RabbitMQ and Redis must be installed")
    homes = [directory / name for name in ("rabbitmq", "redis")]
    for home in homes:
        home.mkdir()
    rabbitmq, redis = (
        rabbitmq_on_this_machine(rabbitmq_launcher, homes[0]),
        redis_on_this_machine(redis_launcher, homes[1]),
    )
    async with AsyncExitStack() as stack:
        for server in (rabbitmq, redis):
            await server.start()
            stack.push_async_callback(server.close)
        urls = {"IGNITE_AMQP_URL": rabbitmq.url(rabbitmq.create_vhost()), "IGNITE_REDIS_URL": redis.url(0)}
        env = {**ENVIRONMENT, **urls}
        worker = run_process(*IGNITE, "worker", "--engine", "simulated", env=env, ready="is ready")
        await stack.enter_async_context(worker)
        process = await stack.enter_async_context(run_process(*command, *IGNITE, "api", "--port", "0", env=env))
        found = await process.wait_for(READY)
        yield Besieged(found[1], int(found[2]), process.pid)


BACKENDS = {"embedded": embedded, "distributed": distributed}


async def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    records: list[dict[str, object]] = []
    command = ("prlimit", f"--nofile={options.descriptors}") if options.descriptors else ()
    for backend in options.backends.split(","):
        with tempfile.TemporaryDirectory(prefix="ignite-attacks-", ignore_cleanup_errors=True) as directory:
            async with BACKENDS[backend](Path(directory), command) as server:
                for attack in (None, *(options.only or ATTACKS)):
                    found = await besieged(server, attack, options.seconds, options.after if attack else 0)
                    records.append(record_of(backend, attack, found))
                    print(row(records[-1]), flush=True)
    return records


def record_of(backend: str, attack: str | None, found: Findings) -> dict[str, object]:
    memory = {name: getattr(found, name) // MEGABYTE for name in ("before", "highest", "after")}
    times = {name: [round(each[key] * 1000) for key in ("p50", "p99")] for name, each in found.times.items()}
    failures = [failure for each in found.times.values() for failure in each["failures"]]
    calls = sum(each["count"] for each in found.times.values())
    about = {"attack": attack or "none", "backend": backend, "load": round(os.getloadavg()[0], 1)}
    return {**about, **memory, **times, "calls": calls, "failed": found.failed, "failures": failures}


def row(record: dict[str, object]) -> str:
    """Returns a row of a Markdown table, with milliseconds and megabytes."""
    times = [" · ".join(str(each) for each in record[name]) for name in ("health", "unary", "stream")]  # type: ignore
    memory = [str(record[name]) for name in ("before", "highest", "after")]
    calls = f"{record['failed']} of {record['calls']}"
    return f"| {record['attack']} | {record['backend']} | {' | '.join((*times, calls, *memory))} |"


def main() -> None:
    options = arguments()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    times = "/healthz p50 · p99 | call p50 · p99 | stream p50 · p99"
    print(f"| attack | backend | {times} | failed | before | highest | after |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    records = asyncio.run(measure(options))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(records, indent=1))
    late = [each for each in records if max(each[name][1] for name in ("health", "unary", "stream")) > BOUND * 1000]  # type: ignore
    print(f"\nlater than {BOUND * 1000:.0f} ms: {', '.join(str(each['attack']) for each in late) or 'none'}")


if __name__ == "__main__":
    main()
