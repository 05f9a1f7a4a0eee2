"""Runs one attack after another on a server, while a healthy client in another process measures its calls."""

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

from tests.support.resident import forget_highest, highest_resident, resident
from tests.support.run_process import run_process
from tests.support.wait_until import wait_until

ATTACKERS_KEY, CLIENTS_KEY = "key-of-mallory-0123456789", "key-of-alice-0123456789"
ENVIRONMENT = {"IGNITE_API_KEYS": f"mallory={ATTACKERS_KEY},alice={CLIENTS_KEY}", "IGNITE_LOG_LEVEL": "warning"}


@dataclass(frozen=True)
class Besieged:
    """A server, and the process of its API."""

    url: str
    grpc_port: int
    pid: int


@dataclass(frozen=True)
class Findings:
    """The result of an attack. Memory in bytes: before it, at its highest, and afterwards. Times by kind of call, as in
    healthy.py.
    """

    before: int
    highest: int
    after: int
    times: dict[str, dict[str, Any]]

    @property
    def failed(self) -> int:
        return sum(each["failed"] for each in self.times.values())

    @property
    def p99(self) -> float:
        return max(each["p99"] for each in self.times.values())


async def besieged(server: Besieged, attack: str | None, seconds: float, after: float = 0.0) -> Findings:
    """Measures a client's calls and the server's memory. `attack` None: without an attack."""
    forget_highest(server.pid)
    before = resident(server.pid)
    times = await timed(server, attack, seconds)
    highest = highest_resident(server.pid)
    if after:
        await asyncio.sleep(after)
    return Findings(before, highest, resident(server.pid), times)


async def timed(server: Besieged, attack: str | None, seconds: float) -> dict[str, Any]:
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.healthy",
        server.url,
        CLIENTS_KEY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        if attack is None:
            await asyncio.sleep(seconds)
        else:
            await attacked(server, attack, seconds)
        output, _ = await asyncio.wait_for(client.communicate(b""), 120)
        return json.loads(output)
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()


async def attacked(server: Besieged, attack: str, seconds: float) -> None:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    where = (host, port, str(server.grpc_port), ATTACKERS_KEY, str(seconds))
    async with run_process(sys.executable, "-m", "tests.support.attacks", attack, *where) as attacker:
        await wait_until(lambda: attacker.returncode is not None, "the attack to end", within=seconds + 120)
        assert attacker.returncode == 0, attacker.output
