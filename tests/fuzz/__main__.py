"""`python -m tests.fuzz`: every fuzzer, with one seed after another. Exit status 1 at the first failing example."""

import argparse
import os
import secrets
import subprocess
import sys
import time

from tests.support.fuzz import EXAMPLES, SEEDED

FUZZERS = (
    *("tests/fuzz", "tests/producer/test_fuzz.py", "tests/clients/test_fuzz.py"),
    "tests/worker/engines/openai/test_normalizer.py",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Runs the fuzzers until the time is over.")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no further round begins")
    parser.add_argument("--seed", type=int, help="of the first round; without one it is drawn, and printed")
    parser.add_argument("--examples", type=int, default=500, help="of each fuzzer in a round")
    parser.add_argument("fuzzers", nargs="*", default=FUZZERS, help="files, or pytest's names of tests")
    given = parser.parse_args()
    seed = secrets.randbelow(10_000) if given.seed is None else given.seed
    ends = time.monotonic() + given.minutes * 60
    while time.monotonic() < ends:
        if status := run_round(given.fuzzers, seed, given.examples):
            again = f"--seed {seed} --examples {given.examples}"
            print(f'Seed {seed} failed. Repeat it with: make fuzz ARGS="--minutes 1 {again}"', flush=True)
            return status
        seed += 1
    return 0


def run_round(fuzzers: list[str], seed: int, examples: int) -> int:
    print(f"seed {seed}, {examples} examples of each fuzzer", flush=True)
    # The random order of tests is switched off: a round is to follow from its seed alone.
    options = ("-q", "-p", "no:randomly", "-x", "--timeout", "1800", f"--hypothesis-seed={seed}")
    env = {**os.environ, EXAMPLES: str(examples), SEEDED: "1"}
    return subprocess.run([sys.executable, "-m", "pytest", *options, *fuzzers], env=env, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
