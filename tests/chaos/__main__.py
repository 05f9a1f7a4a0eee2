"""`python -m tests.chaos`: a campaign on private servers. The exit status is 1 if an invariant was violated."""

import argparse
import asyncio
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.chaos.broken import BUILDS
from tests.chaos.campaign import Findings, Options, private_servers, run
from tests.chaos.report import command, plan_lines, report_lines


def parse(arguments: list[str]) -> tuple[Options, Path | None]:
    parser = argparse.ArgumentParser(prog="make chaos", description="Load, faults from a seed, and a look at the rest.")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=1.0, help="of load")
    length.add_argument("--seconds", type=float, help="of load")
    parser.add_argument("--seed", type=int, help="of faults and load; without one it is drawn, and printed")
    parser.add_argument("--apis", type=int, default=2)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--build", choices=sorted(BUILDS), default="", help="a build with one safeguard taken out")
    parser.add_argument("--logs", type=Path, help="a directory for what the processes said")
    given = parser.parse_args(arguments)
    seed = secrets.randbelow(10_000) if given.seed is None else given.seed
    seconds = given.minutes * 60 if given.seconds is None else given.seconds
    return Options(seed, seconds, given.apis, given.workers, given.build), given.logs


async def campaign(options: Options) -> Findings:
    async with private_servers() as servers:
        return await run(options, servers, lambda line: show([line]))


def show(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def keep(outputs: Iterable[tuple[str, str]], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, output in outputs:
        (directory / f"{name}.log").write_text(output)


def main() -> int:
    options, logs = parse(sys.argv[1:])
    show(plan_lines(options))
    try:
        findings = asyncio.run(campaign(options))
    except BaseException:
        show([f"The campaign itself failed. Repeat it with: {command(options)}"])
        raise
    show(report_lines(findings))
    if logs is not None:
        keep(findings.outputs.items(), logs)
    return 1 if findings.violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
