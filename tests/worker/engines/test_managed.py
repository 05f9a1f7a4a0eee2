"""A serving process that dies is replaced, and never left running."""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.errors import EngineError
from tests.support.run_process import run_process
from tests.support.serving_processes import children, gone, grandchildren, is_running, serving_processes
from tests.support.wait_until import wait_until
from tests.worker.engines.conftest import BY_PORT, BY_SOCKET
from tests.worker.engines.requests import ask, ask_long, read
from worker.engines.base import Engine
from worker.engines.demo_model import MODEL_PATH
from worker.engines.managed import engine as managed_engine
from worker.engines.managed.engine import ManagedEngine, ManagedOptions, directory_for_sockets
from worker.engines.managed.guardian import secrets_in
from worker.engines.managed.serving_process import ServingProcess
from worker.engines.open_engine import EngineSettings, open_engine
from worker.engines.openai.engine import UpstreamOptions
from worker.engines.openai.http_client import Address

WITHIN = 60


def managed(command: str, **fields: Any) -> Engine:
    return open_engine(EngineSettings("vllm", model=str(MODEL_PATH), model_id="managed", command=command, **fields))


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = managed(BY_PORT)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


@pytest.mark.parametrize("victim", [0, 1], ids=["guardian", "command"])
async def test_kill_9_fails_running_requests_and_the_next_process_serves(engine: Engine, victim: int) -> None:
    very_long = ask_long() | {"max_tokens": 4000}
    streams = [asyncio.create_task(read(engine, very_long)) for _ in range(2)]
    unary = asyncio.create_task(engine.complete(very_long))
    unhealthy = asyncio.create_task(engine.wait_unhealthy())
    await read(engine, ask(max_tokens=1))
    [processes] = serving_processes(os.getpid())
    os.kill(processes[victim], signal.SIGKILL)
    async with asyncio.timeout(WITHIN):
        ends = await asyncio.gather(*streams, unary, return_exceptions=True)
        assert [type(end) for end in ends if not isinstance(end, EngineError)] == []
        assert await unhealthy
        await engine.wait_healthy()
        assert (await engine.complete(ask()))["usage"]
    assert not any(map(is_running, processes))


async def test_closing_ends_the_process(engine: Engine) -> None:
    [processes] = serving_processes(os.getpid())
    await engine.close()
    await gone(*processes)


async def test_its_output_is_ours() -> None:
    with capture_logs() as logs:
        engine = managed(BY_SOCKET)
        await engine.start()
        await wait_until(lambda: [line for line in logs if "unix://" in line.get("said", "")], "the process's line")
        await engine.close()
    (line,) = [line for line in logs if "unix://" in line.get("said", "")]
    assert (line["event"], line["process"], line["log_level"]) == ("engine.output", "vllm", "info")


async def test_a_command_that_ends_is_reported_at_once() -> None:
    engine = managed("false {port}", start_timeout=60)
    async with asyncio.timeout(WITHIN):
        with pytest.raises(EngineError, match=r"`false \d+` has ended with status 1"):
            await engine.start()
        await engine.close()


async def test_a_start_that_fails_is_said_in_its_own_words() -> None:
    code = "import sys; print('Loading weights', 4, flush=True); raise ValueError('there is no such model')"
    engine = managed(shlex.join(["env", sys.executable, "-c", code]) + " {port}")
    with pytest.raises(EngineError, match=r"has ended with status 1: ValueError: there is no such model\.$"):
        await engine.start()
    await engine.close()


async def test_restarts_that_fail_alike_end_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process serves; those that follow find their model gone."""
    monkeypatch.setattr(managed_engine, "FIRST_PAUSE", 0.01)
    broken = tmp_path / "broken"
    code = "import os, sys; print(f'ValueError: no model (pid {os.getpid()})'); sys.exit(3)"
    script = f"if [ -e {broken} ]; then exec {shlex.join([sys.executable, '-c', code])}; fi; exec {BY_SOCKET}"
    engine = managed(shlex.join(["sh", "-c", script]))
    await engine.start()
    [processes] = serving_processes(os.getpid())
    broken.touch()
    unhealthy = asyncio.create_task(engine.wait_unhealthy())
    os.kill(processes[1], signal.SIGKILL)
    async with asyncio.timeout(WITHIN):
        await unhealthy
        with pytest.raises(EngineError, match=r"cannot be started again\. .*status 3: ValueError: no model"):
            await engine.wait_healthy()
    assert engine.state is not None
    assert engine.state.restarts == 2
    await engine.close()


async def test_its_start_and_restarts_are_counted(engine: Engine) -> None:
    assert engine.state is not None and engine.state.start_seconds is not None
    assert (engine.state.restarts, engine.state.start_seconds > 0) == (0, True)
    [processes] = serving_processes(os.getpid())
    unhealthy = asyncio.create_task(engine.wait_unhealthy())
    os.kill(processes[1], signal.SIGKILL)
    async with asyncio.timeout(WITHIN):
        await unhealthy
        await engine.wait_healthy()
    assert engine.state.restarts == 1


async def test_a_missing_command_is_reported_at_once() -> None:
    engine = managed("no-such-command {port}", start_timeout=60)
    async with asyncio.timeout(WITHIN):
        with pytest.raises(EngineError, match="no-such-command"):
            await engine.start()
        await engine.close()


async def test_a_command_that_never_answers_is_stopped() -> None:
    engine = managed("tail -f /dev/null {port}", start_timeout=0.3)
    async with asyncio.timeout(WITHIN):
        with pytest.raises(EngineError, match="not answered"):
            await engine.start()
    assert serving_processes(os.getpid()) == []
    await engine.close()


async def test_kill_9_of_the_worker_kills_the_process(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from worker.engines.open_engine import *\n"
        "async def main():\n"
        f"    engine = open_engine(EngineSettings('vllm', model={str(MODEL_PATH)!r}, command={BY_SOCKET!r}))\n"
        "    await engine.start(); print('started', flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    async with run_process(sys.executable, "-c", code, env={"TMPDIR": str(tmp_path)}, ready="started") as worker:
        [processes] = serving_processes(worker.pid)
        worker.kill()
        await gone(*processes)


async def test_a_process_that_hangs_is_replaced() -> None:
    upstream = UpstreamOptions(Address(""), stall_timeout=1.0)
    engine = ManagedEngine(ManagedOptions(str(MODEL_PATH), upstream, BY_SOCKET, grace=0.1))
    await engine.start()
    [processes] = serving_processes(os.getpid())
    os.kill(processes[1], signal.SIGSTOP)
    async with asyncio.timeout(WITHIN):
        with pytest.raises(EngineError):
            await read(engine, ask())
        await gone(*processes)
        await engine.wait_healthy()
        assert (await engine.complete(ask()))["usage"]
        await engine.close()


async def test_a_stubborn_process_and_its_children_are_killed_after_the_grace() -> None:
    deaf = "trap '' TERM; tail -f /dev/null & echo ready; wait"
    async with asyncio.timeout(WITHIN):
        process = await ServingProcess.start("deaf", ["sh", "-c", deaf])
        await wait_until(lambda: grandchildren(process.pid), "the shell's child")
        family = [*children(process.pid), *grandchildren(process.pid)]
        await process.stop(grace=0.1)
        await gone(*family)


def test_the_command_must_say_where_to_listen() -> None:
    with pytest.raises(EngineError, match="where to listen"):
        managed("serve {model}")


def test_a_model_is_needed() -> None:
    with pytest.raises(EngineError, match="model"):
        open_engine(EngineSettings("vllm"))


SECRET = "sk-of-the-'engine"


@pytest.mark.parametrize(
    "arguments",
    [["--api-key", SECRET], [f"--api-key={SECRET}"], ["--port", "1", "--api-key", "other", SECRET, "--uds", "x"]],
    ids=["apart", "joined", "several"],
)
async def test_a_command_is_named_without_its_keys(arguments: list[str]) -> None:
    process = await ServingProcess.start("test", ["no-such-command", *arguments])
    error = await process.wait()
    assert "no-such-command" in str(error) and "***" in str(error) and SECRET not in str(error)
    assert error.message == "The engine's process has ended."


def test_what_counts_as_a_secret() -> None:
    words = ["env", "VLLM_API_KEY=a-key", "HF_TOKEN=hf", "vllm", "serve", "m", "--tokenizer", "t", "--ssl-keyfile", "f"]
    assert secrets_in([*words, "--hf-token", "tk", "--max-model-len", "9"]) == ["a-key", "hf", "tk"]


async def test_a_child_gets_no_settings_of_ignite_and_prints_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGNITE_REDIS_URL", "redis://:pa55@redis/0")
    monkeypatch.setenv("HF_TOKEN", "needed")
    code = "import os, sys; print(sorted(os.environ), sys.argv[1:])"
    with capture_logs() as logs:
        process = await ServingProcess.start("test", [sys.executable, "-c", code, "--api-key", SECRET])
        await process.wait()
    (printed,) = [line["said"] for line in logs]
    assert "IGNITE_" not in printed and "HF_TOKEN" in printed
    assert "'--api-key'" in printed and "***" in printed and SECRET not in printed


def test_socket_paths_are_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for place in (tmp_path, Path("/tmp"), tmp_path / ("deep" * 20)):
        place.mkdir(exist_ok=True)
        monkeypatch.setattr("tempfile.tempdir", str(place))
        directory = directory_for_sockets()
        assert len(f"{directory}/loading-99.sock") < 104
        assert directory.stat().st_mode & 0o777 == 0o700
        directory.rmdir()
