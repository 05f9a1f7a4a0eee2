"""A real vLLM on this machine's CPU, started for the tests, or one that somebody else runs."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.support.server import HostServer, free_ports
from tests.support.wait_until import wait_until

ROOT = Path(__file__).parents[2]
ENVIRONMENT = Path(os.environ.get("IGNITE_TEST_VLLM_VENV") or ROOT / ".venv-vllm")
MISSING = "vLLM is missing: `make test-vllm` installs it, and runs these tests"
STARTS_WITHIN = 300.0
MODEL = "tiny"
MAX_MODEL_LEN = 2048
ARGUMENTS = ("--max-model-len", str(MAX_MODEL_LEN), "--enforce-eager", "--served-model-name", MODEL)
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")


def environment() -> Mapping[str, str]:
    """What vLLM needs on a CPU, and without the network."""
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PATH": f"{ENVIRONMENT}/bin:{os.environ['PATH']}",
    }


def is_installed() -> bool:
    return (ENVIRONMENT / ".installed").exists()


def make_models(directory: Path) -> None:
    command = [str(ENVIRONMENT / "bin" / "python"), str(Path(__file__).with_name("make_models.py")), str(directory)]
    subprocess.run(command, check=True, env={**os.environ, **environment()}, capture_output=True)


@dataclass
class Vllm:
    """`url`: up to and including /v1. `process`: the server's, where it is ours."""

    url: str
    model: str = MODEL
    process: HostServer | None = None

    @classmethod
    async def start(cls, model: Path, directory: Path, *arguments: str) -> "Vllm":
        """`directory`: for its output."""
        (port,) = free_ports(1)
        command = [str(ENVIRONMENT / "bin" / "vllm"), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
        process = HostServer([*command, *ARGUMENTS, *TOOLS, *arguments], directory, environment())
        process.start()
        server = cls(f"http://127.0.0.1:{port}/v1", process=process)
        await server.ready()
        return server

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 80

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "127.0.0.1"

    async def ready(self) -> None:
        async def answers() -> bool:
            assert self.process is None or self.process.is_running(), self.process.output()[-3000:]
            try:
                await self.models()
            except aiohttp.ClientError:
                return False
            return True

        await wait_until(answers, "vLLM to answer", within=STARTS_WITHIN)

    async def models(self) -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/models") as response:
            return (await response.json())["data"]

    async def close(self) -> None:
        if self.process is not None:
            await self.process.close()

    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A completion, without Ignite."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/chat/completions", json={**body, "model": self.model}) as response,
        ):
            assert response.status == 200, await response.text()
            return await response.json()

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url[:-3]}/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.partition("{")[0] == name)

    async def running(self) -> float:
        """Sequences in the engine: those that are generated, and those that wait."""
        return await self.metric("vllm:num_requests_running") + await self.metric("vllm:num_requests_waiting")
