"""Every engine that can run here, created with `open_engine`."""

import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.worker.engines.upstream_server import UpstreamServer
from worker.engines.base import Engine
from worker.engines.demo_model import MODEL_PATH
from worker.engines.open_engine import EngineSettings, open_engine

SLOTS = 4
CONTEXT = 1024
LLAMA_SERVER = Path(__file__).with_name("llama_server.py")
COMMAND = shlex.join((sys.executable, str(LLAMA_SERVER), "--model"))
BY_PORT = f"{COMMAND} {{model}} --port {{port}} --context 4096"
BY_SOCKET = f"{COMMAND} {{model}} --uds {{uds}}"

SETTINGS = {
    "simulated": EngineSettings("simulated", concurrency=SLOTS, simulated_itl_ms=1),
    "llamacpp": EngineSettings("llamacpp", concurrency=SLOTS, context_length=CONTEXT),
    "openai": EngineSettings("openai", concurrency=SLOTS, continuation="prefill"),
    "vllm": EngineSettings("vllm", model=str(MODEL_PATH), concurrency=SLOTS, command=BY_SOCKET, continuation="prefill"),
}


@pytest.fixture(scope="session")
def llama_server_url() -> Iterator[str]:
    command = [sys.executable, str(LLAMA_SERVER), "--model", str(MODEL_PATH), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"{process.stdout.readline().strip()}/v1"
        finally:
            process.kill()


@pytest.fixture(params=SETTINGS)
def settings(request: pytest.FixtureRequest) -> EngineSettings:
    settings = SETTINGS[request.param]
    if settings.kind == "openai":
        return replace(settings, url=request.getfixturevalue("llama_server_url"))
    return settings


@pytest.fixture
async def engine(settings: EngineSettings) -> AsyncIterator[Engine]:
    engine = open_engine(settings)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


@pytest.fixture
async def upstream() -> AsyncIterator[UpstreamServer]:
    server = UpstreamServer()
    await server.start()
    try:
        yield server
    finally:
        await server.close()
