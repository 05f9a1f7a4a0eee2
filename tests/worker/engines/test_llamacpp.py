"""What is llama.cpp's own: files, slots, prompts, and the process it lives in."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.errors import EngineError
from tests.worker.engines.conftest import SETTINGS
from tests.worker.engines.requests import ask, ask_long
from worker.engines.base import Engine
from worker.engines.demo_model import MODEL_PATH
from worker.engines.open_engine import EngineSettings, open_engine


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


async def test_a_model_is_called_as_its_file_unless_named() -> None:
    for settings, name in (
        (EngineSettings("llamacpp", model=str(MODEL_PATH)), MODEL_PATH.stem),
        (EngineSettings("llamacpp", model=str(MODEL_PATH), model_id="mine"), "mine"),
    ):
        engine = open_engine(settings)
        assert engine.card.id == name
        await engine.close()


@pytest.mark.parametrize("content", [None, b"", b"GGUF", b"no model" * 1000, MODEL_PATH.read_bytes()[:200_000]])
async def test_a_bad_file_is_one_clear_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    engine = open_engine(EngineSettings("llamacpp", model=str(path)))
    with pytest.raises(EngineError, match=str(path)):
        await engine.start()
    await engine.close()


async def test_choices_of_a_closed_stream_that_wait_for_a_slot_never_run(engine: Engine) -> None:
    stream = engine.generate(ask_long(n=64))
    await anext(stream)
    async with asyncio.timeout(60):
        await stream.aclose()
        await asyncio.gather(*(engine.complete(ask()) for _ in range(engine.concurrency)))


async def test_a_long_prompt_can_be_given_up_before_its_first_token(engine: Engine) -> None:
    prompt = ask(" ".join(f"word {number}" for number in range(150)), return_progress=True)
    streams = [engine.generate(prompt) for _ in range(engine.concurrency)]
    for stream in streams:
        assert "prompt_progress" in await anext(stream)
    async with asyncio.timeout(60):
        for stream in streams:
            await stream.aclose()
        await asyncio.gather(*(engine.complete(ask()) for _ in range(engine.concurrency)))


async def test_signals_stay_with_the_process(engine: Engine) -> None:
    """llama.cpp's server has taken SIGTERM for itself in other versions: then nothing drains."""
    heard = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.set)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60):
            await heard.wait()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    assert (await engine.complete(ask()))["usage"]
