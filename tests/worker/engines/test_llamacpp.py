"""What is llama.cpp's own: files, slots, prompts, and the process it lives in."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import EngineError, EngineRefused
from tests.worker.engines.conftest import SETTINGS
from tests.worker.engines.requests import ask, ask_long, read, text_of
from worker.engines.base import Engine
from worker.engines.demo_model import MODEL_PATH
from worker.engines.open_engine import EngineSettings, open_engine
from worker.fold import fold

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}


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


async def test_more_choices_than_slots_are_all_counted(engine: Engine) -> None:
    one = (await engine.complete(ask(max_tokens=6, ignore_eos=True)))["usage"]
    request = ask(n=10, temperature=5, top_k=0, top_p=1, min_p=0, max_tokens=6, ignore_eos=True)
    completion = await engine.complete(request)
    assert len(completion["choices"]) == 10
    assert len({choice["message"]["content"] for choice in completion["choices"]}) > 1
    assert completion["usage"]["completion_tokens"] == 60
    assert completion["usage"]["prompt_tokens"] == one["prompt_tokens"]


async def test_choices_of_a_closed_stream_that_wait_for_a_slot_never_run(engine: Engine) -> None:
    stream = engine.generate(ask_long(n=64))
    await anext(stream)
    async with asyncio.timeout(5):
        await stream.aclose()
        await asyncio.gather(*(engine.complete(ask()) for _ in range(engine.concurrency)))


async def test_a_long_prompt_can_be_given_up_before_its_first_token(engine: Engine) -> None:
    prompt = ask(" ".join(f"word {number}" for number in range(150)), return_progress=True)
    streams = [engine.generate(prompt) for _ in range(engine.concurrency)]
    for stream in streams:
        assert "prompt_progress" in await anext(stream)
    async with asyncio.timeout(5):
        for stream in streams:
            await stream.aclose()
        await asyncio.gather(*(engine.complete(ask()) for _ in range(engine.concurrency)))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": "x"}, "tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
            "messages",
        ),
        ({"response_format": {"type": "table"}}, "response_format"),
        ({"grammar": "root ::= nothing"}, "grammar"),
    ],
)
async def test_what_llama_cpp_cannot_read_is_the_requests_fault(
    engine: Engine, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(EngineRefused) as refused:
        await read(engine, ask(**fields))
    assert refused.value.param == param


async def test_the_named_tool_is_called_in_spite_of_a_response_format(engine: Engine) -> None:
    choice = {"type": "function", "function": {"name": "add"}}
    request = ask(
        "What is the weather in Paris?",
        tools=[WEATHER, ADD],
        tool_choice=choice,
        response_format={"type": "json_object"},
        max_tokens=60,
    )
    answer = fold(await read(engine, request))["choices"][0]
    assert [call["function"]["name"] for call in answer["message"]["tool_calls"]] == ["add"]
    assert answer["finish_reason"] == "tool_calls"


async def test_logprobs_without_alternatives(engine: Engine) -> None:
    tokens = (await engine.complete(ask(max_tokens=3, logprobs=True)))["choices"][0]["logprobs"]["content"]
    assert len(tokens) == 3
    assert all(token["top_logprobs"] == [] for token in tokens)


async def test_the_same_seed_says_the_same(engine: Engine) -> None:
    request = ask(temperature=1.2, max_tokens=40)
    assert text_of(await read(engine, request)) == text_of(await read(engine, request))


async def test_signals_stay_with_the_process(engine: Engine) -> None:
    """llama.cpp's server has taken SIGTERM for itself in other versions: then nothing drains."""
    heard = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.set)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5):
            await heard.wait()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    assert (await engine.complete(ask()))["usage"]
