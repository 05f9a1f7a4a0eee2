"""During attacks a healthy client's calls succeed, and the API's memory stays within its bound. `make attack`
measures latencies; see docs/explanation/security.md.
"""

import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.attacks import ATTACKS
from tests.support.cluster import Cluster
from tests.support.run_process import RunningProcess, run_process
from tests.support.siege import ENVIRONMENT, Besieged, besieged

READY = r"ready: (http://\S+)/v1 · gRPC \S+:(\d+)"
MEGABYTE = 2**20
GROWTH = 768 * MEGABYTE
"""Of `ignite api`. Pods have 1 GiB: three times `body_budget`, beside some 100 MB of the process itself."""

GROWTH_OF_ALL = 1280 * MEGABYTE
"""Of `ignite up`, which holds a request in the store, the worker and the engine, too."""

SHORT = ("gRPC messages cut in half", "a header of 80 MB", "1,500 half heads", "1,500 half bodies")
SHORT_SECONDS, LONG_SECONDS = 1.0, 15.0
DESCRIPTORS = 256


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncGenerator[tuple[RunningProcess, Besieged]]:
    """With as few file descriptors as a container may have."""
    command = ("prlimit", f"--nofile={DESCRIPTORS}", sys.executable, "-m", "ignite", "up", "--engine", "simulated")
    options = ("--port", "0", "--data-dir", str(tmp_path))
    async with run_process(*command, *options, env=ENVIRONMENT) as process:
        found = await process.wait_for(READY)
        yield process, Besieged(found[1], int(found[2]), process.pid)


async def assert_unharmed(
    process: RunningProcess,
    server: Besieged,
    attack: str,
    seconds: float,
    growth: int = GROWTH_OF_ALL,
) -> None:
    found = await besieged(server, attack, seconds)
    failures = [failure for each in found.times.values() for failure in each["failures"]]
    assert not found.failed, failures
    assert all(each["count"] for each in found.times.values()), found
    assert found.highest - found.before < growth, found
    assert process.returncode is None
    assert "Traceback" not in process.output


async def test_a_few_attacks(embedded: tuple[RunningProcess, Besieged]) -> None:
    for attack in SHORT:
        await assert_unharmed(*embedded, attack, SHORT_SECONDS)


@pytest.mark.long
@pytest.mark.parametrize("attack", ATTACKS)
async def test_embedded(embedded: tuple[RunningProcess, Besieged], attack: str) -> None:
    await assert_unharmed(*embedded, attack, LONG_SECONDS)


@pytest.mark.long
@pytest.mark.parametrize("attack", ATTACKS)
async def test_distributed(cluster: Cluster, attack: str) -> None:
    api = await cluster.api(**ENVIRONMENT)
    await cluster.worker()
    found = await api.process.wait_for(READY)
    server = Besieged(api.url, int(found[2]), api.process.pid)
    await assert_unharmed(api.process, server, attack, LONG_SECONDS, GROWTH)
