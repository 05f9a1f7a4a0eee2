"""The llama.cpp engine: files, slots, prompts and its process."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.errors import EngineError
from tests.support.leak_check import no_leaks
from tests.support.run_process import run_process
from tests.support.serving_processes import gone, serving_processes
from tests.support.wait_until import wait_until
from tests.worker.engines.conftest import SETTINGS
from tests.worker.engines.requests import ask, ask_long, read, text_of
from worker.engines.base import Chunk, Engine
from worker.engines.demo_model import MODEL_PATH
from worker.engines.llamacpp import process
from worker.engines.open_engine import EngineSettings, open_engine


def whole_file_of_an_unknown_kind() -> bytes:
    """Returns the demo model's file with an unknown architecture."""
    return MODEL_PATH.read_bytes().replace(b"llama", b"lmaxx")


async def read_rest(stream: AsyncGenerator[Chunk, None]) -> list[Chunk]:
    return [chunk async for chunk in stream]


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = open_engine(SETTINGS["llamacpp"])
    await engine.start()
    yield engine
    await engine.close()


async def test_the_demo_model_is_the_default(engine: Engine) -> None:
    assert engine.card.id == "demo"
    assert engine.card.context_length == 1024
    assert "demo" in (engine.card.description or "").lower()


async def test_a_model_without_an_id_is_named_after_its_file() -> None:
    for settings, name in (
        (EngineSettings("llamacpp", model=str(MODEL_PATH)), MODEL_PATH.stem),
        (EngineSettings("llamacpp", model=str(MODEL_PATH), model_id="mine"), "mine"),
    ):
        engine = open_engine(settings)
        assert engine.card.id == name
        await engine.close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "There is no model file"),
        (b"", "not a GGUF file"),
        (b"no model" * 1000, "not a GGUF file"),
        (MODEL_PATH.read_bytes()[:200_000], "200,000 of 3,624,448 bytes"),
        (whole_file_of_an_unknown_kind(), "llama.cpp cannot load"),
    ],
    ids=["missing", "empty", "other", "cut-off", "unknown"],
)
async def test_an_invalid_file_is_reported_in_one_sentence(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    engine = open_engine(EngineSettings("llamacpp", model=str(path)))
    async with no_leaks():
        with pytest.raises(EngineError, match=says) as refused:
            await engine.start()
        await engine.close()
    assert str(path) in refused.value.message


async def test_llama_cpps_errors_about_a_model_are_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(whole_file_of_an_unknown_kind())
    engine = open_engine(EngineSettings("llamacpp", model=str(path)))
    with pytest.raises(EngineError, match="ended with status"):
        await engine.start()
    await engine.close()
    assert "unknown model architecture: 'lmaxx'" in "".join(capfd.readouterr())


# ── the process ──


@pytest.mark.parametrize("times", [10, pytest.param(100, marks=pytest.mark.long)])
async def test_it_can_be_closed_at_any_moment(times: int) -> None:
    """Idle, under load and during the start: closing does not wait for native code and leaves nothing."""
    async with asyncio.timeout(30 * times), no_leaks():
        for number in range(times):
            engine = open_engine(SETTINGS["llamacpp"])
            starting = asyncio.create_task(engine.start())
            if number % 3 == 2:
                await wait_until(lambda: serving_processes(os.getpid()), "the process")
                starting.cancel()
            await asyncio.wait({starting})
            streams = [asyncio.create_task(read(engine, ask_long())) for _ in range(number % 3 * 8)]
            await asyncio.sleep(0)
            await engine.close()
            ends = await asyncio.gather(*streams, return_exceptions=True)
            assert [end for end in ends if not isinstance(end, EngineError)] == []


async def test_kill_9_fails_choices_that_wait_for_a_slot_too(engine: Engine) -> None:
    many = ask_long(n=2 * engine.concurrency)
    calls = [asyncio.create_task(engine.complete(many)) for _ in range(3)]
    stream = engine.generate(many)
    await anext(stream)
    [processes] = serving_processes(os.getpid())
    os.kill(processes[1], signal.SIGKILL)
    async with asyncio.timeout(60):
        ends = await asyncio.gather(*calls, read_rest(stream), return_exceptions=True)
        assert [end for end in ends if not isinstance(end, EngineError)] == []
        await engine.wait_healthy()
        assert (await engine.complete(ask(n=2 * engine.concurrency)))["usage"]


async def test_kill_9_fails_running_requests_and_the_next_process_serves(engine: Engine) -> None:
    whole = text_of(await read(engine, ask_long()))
    [processes] = serving_processes(os.getpid())
    unhealthy = asyncio.create_task(engine.wait_unhealthy())
    stream = engine.generate(ask_long())
    begun = [await anext(stream) for _ in range(20)]
    os.kill(processes[1], signal.SIGKILL)
    async with asyncio.timeout(60):
        with pytest.raises(EngineError):
            async for chunk in stream:
                begun.append(chunk)
        assert await unhealthy
        await engine.wait_healthy()
        rest = await read(engine, ask_long(), text_of(begun))
    assert text_of(begun) + text_of(rest) == whole
    await gone(*processes)


@pytest.mark.long  # Two probes of 5 s each; test_managed.py has the same of any serving process.
async def test_a_process_that_hangs_is_replaced() -> None:
    engine = open_engine(replace(SETTINGS["llamacpp"], stall_timeout=1))
    await engine.start()
    [processes] = serving_processes(os.getpid())
    os.kill(processes[1], signal.SIGSTOP)
    async with asyncio.timeout(60):
        with pytest.raises(EngineError):
            await read(engine, ask())
        await gone(*processes)
        await engine.wait_healthy()
        assert (await engine.complete(ask()))["usage"]
        await engine.close()


def test_the_process_ends_itself_when_the_loop_of_llama_cpp_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Uses a server that never answers, because single native threads cannot be stopped."""
    path = tmp_path / "llama.sock"
    values = {"model": "m", "model-id": "m", "slots": 1, "context-length": 1, "socket": path, "stall-timeout": 0.1}
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "loading-llama.sock"))
        silent.listen()
        monkeypatch.setattr(process, "load", lambda _: silent)
        status = process.main([f"--{name}={value}" for name, value in values.items()])
    assert status == process.HANGS
    assert "has not answered for 0.1 seconds" in "".join(capfd.readouterr())


async def test_the_library_is_not_loaded_here_and_prints_nothing(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from shared.errors import EngineRefused\n"
        "from worker.engines.open_engine import *\n"
        "async def main():\n"
        "    engine = open_engine(EngineSettings('llamacpp'))\n"
        "    await engine.start()\n"
        "    try: await engine.complete({'messages': [{'role': 'user', 'content': 'Hi'}], 'tools': 'x'})\n"
        "    except EngineRefused: print('xllamacpp' in sys.modules, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    async with run_process(sys.executable, "-c", code, env={"TMPDIR": str(tmp_path)}, ready="True|False") as worker:
        [processes] = serving_processes(worker.pid)
        assert worker.output.strip() == "False"
        worker.kill()
        await gone(*processes)


# ── slots and prompts ──


async def test_choices_of_a_closed_stream_that_wait_for_a_slot_never_run(engine: Engine) -> None:
    stream = engine.generate(ask_long(n=64))
    await anext(stream)
    async with asyncio.timeout(60):
        await stream.aclose()
        await asyncio.gather(*(engine.complete(ask()) for _ in range(engine.concurrency)))


async def test_a_long_prompt_can_be_cancelled_before_its_first_token(engine: Engine) -> None:
    prompt = ask(" ".join(f"word {number}" for number in range(150)), return_progress=True)
    streams = [engine.generate(prompt) for _ in range(engine.concurrency)]
    for stream in streams:
        assert "prompt_progress" in await anext(stream)
    async with asyncio.timeout(60):
        for stream in streams:
            await stream.aclose()
        await asyncio.gather(*(engine.complete(ask()) for _ in range(engine.concurrency)))


async def test_a_signal_to_all_processes_interrupts_no_answer(engine: Engine) -> None:
    """The worker drains and then ends the process."""
    [processes] = serving_processes(os.getpid())
    stream = engine.generate(ask_long())
    await anext(stream)
    for pid in processes:
        os.kill(pid, signal.SIGTERM)
    assert (await read_rest(stream))[-1]["usage"]["completion_tokens"] == 900
    await engine.close()
    await gone(*processes)


async def test_the_library_does_not_take_the_process_signals(engine: Engine) -> None:
    """Some versions of llama.cpp's server install a SIGTERM handler, which would prevent draining."""
    heard = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.set)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60):
            await heard.wait()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    assert (await engine.complete(ask()))["usage"]
