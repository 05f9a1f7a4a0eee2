"""The simulated engine's tokens, rate and cost, on which load tests rely."""

import asyncio
import re
import selectors
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import pytest

from tests.worker.engines.requests import ask, pieces, read, text_of
from worker.engines.simulated import AT_ONCE, SimulatedEngine

T = TypeVar("T")


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedEngine]:
    engine = SimulatedEngine(tokens=3, seed=5)
    await engine.start()
    yield engine
    await engine.close()


async def test_tokens_count_up_from_the_seed_and_wrap(engine: SimulatedEngine) -> None:
    chunks = await read(engine, ask("go seed=998", max_tokens=4))
    assert pieces(chunks) == [" t998", " t999", " t000", " t001"]
    assert chunks[-1]["usage"]["completion_tokens"] == 4


async def test_missing_knobs_come_from_the_settings(engine: SimulatedEngine) -> None:
    assert text_of(await read(engine, ask("go", max_tokens=None))) == " t005 t006 t007"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "text", "text": "go seed=7"}]}],
        [{"role": "user", "content": "seed=1"}, {"role": "user", "content": "seed=7"}],
        [{"role": "user", "content": "seed=7"}, {"role": "assistant", "content": "seed=1"}],
        [{"role": "user", "content": "ttft=0 itl=0 seed=7 " + "x" * 100}],
    ],
    ids=["parts", "last user message", "not the assistant's", "any order"],
)
async def test_knobs_are_read_from_the_last_user_message(
    engine: SimulatedEngine, messages: list[dict[str, object]]
) -> None:
    assert text_of(await read(engine, ask(messages=messages, max_tokens=1))) == " t007"


async def test_choices_differ_and_are_all_counted(engine: SimulatedEngine) -> None:
    chunks = await read(engine, ask("seed=3", max_tokens=2, n=2))
    assert [text_of(chunks, index) for index in range(2)] == [" t003 t004", " t004 t005"]
    assert chunks[-1]["usage"]["completion_tokens"] == 4


def marks(words: Sequence[str]) -> set[str]:
    return {word.partition(".")[2] for word in words}


async def test_signed_tokens_have_the_mark_of_their_attempt(engine: SimulatedEngine) -> None:
    first = pieces(await read(engine, ask("seed=998 sign=1", max_tokens=4)))
    second = pieces(await read(engine, ask("seed=998 sign=1", max_tokens=4)))
    assert [word.partition(".")[0] for word in first] == [" t998", " t999", " t000", " t001"]
    assert len(marks(first)) == len(marks(second)) == 1
    assert marks(first) != marks(second)


async def test_a_signed_answer_continues_after_its_prefix(engine: SimulatedEngine) -> None:
    request = ask("seed=7 sign=1", max_tokens=4)
    sent = pieces(await read(engine, request))[:2]
    rest = pieces([chunk async for chunk in engine.generate(request, "".join(sent))])
    assert [word.partition(".")[0] for word in sent + rest] == [" t007", " t008", " t009", " t010"]


async def test_a_signed_unary_answer_has_a_mark(engine: SimulatedEngine) -> None:
    completion = await engine.complete(ask("seed=7 sign=1", max_tokens=2))
    assert re.fullmatch(r" t007(\.[0-9a-f]{4}) t008\1", completion["choices"][0]["message"]["content"])


class InstantSelector(selectors.DefaultSelector):
    """A selector that advances the loop's clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0
        return super().select(0)


class InstantLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = InstantSelector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def run_instantly(work: Callable[[InstantLoop, SimulatedEngine], Awaitable[T]]) -> T:
    loop = InstantLoop()

    async def run() -> T:
        engine = SimulatedEngine()
        await engine.start()
        return await work(loop, engine)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(run())


@pytest.mark.parametrize("reading", [0.0, 0.003, 0.004])
def test_the_pace_is_kept_without_drift_by_a_slow_reader(reading: float) -> None:
    async def arrivals(loop: InstantLoop, engine: SimulatedEngine) -> list[float]:
        times: list[float] = []
        async for chunk in engine.generate(ask("ttft=40 itl=5", max_tokens=30)):
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                times.append(loop.time())
                loop.clock.now += reading
        return times

    assert run_instantly(arrivals) == pytest.approx([0.040 + at * 0.005 for at in range(30)], abs=1e-6)


def test_a_reader_that_was_late_catches_up() -> None:
    async def last_arrival(loop: InstantLoop, engine: SimulatedEngine) -> float:
        stream = engine.generate(ask("ttft=40 itl=5", max_tokens=30))
        await anext(stream)
        loop.clock.now += 0.1
        async for _ in stream:
            pass
        return loop.time()

    assert run_instantly(last_arrival) == pytest.approx(0.040 + 29 * 0.005)


def test_a_unary_answer_takes_as_long_as_the_stream() -> None:
    async def duration(loop: InstantLoop, engine: SimulatedEngine) -> float:
        await engine.complete(ask("ttft=40 itl=5", max_tokens=11))
        return loop.time()

    assert run_instantly(duration) == pytest.approx(0.040 + 10 * 0.005)


async def test_a_stream_yields_to_the_event_loop_every_few_tokens(engine: SimulatedEngine) -> None:
    loop, turns = asyncio.get_running_loop(), 0

    def other() -> None:
        nonlocal turns, waiting
        turns += 1
        waiting = loop.call_soon(other)

    waiting = loop.call_soon(other)
    await read(engine, ask(max_tokens=100))
    waiting.cancel()
    assert turns >= 100 // AT_ONCE


def test_a_simulated_worker_needs_neither_llama_cpp_nor_an_http_client() -> None:
    code = (
        "import asyncio, sys; from worker.engines.open_engine import *;"
        "asyncio.run(open_engine(EngineSettings('simulated')).start());"
        "print(sorted({'xllamacpp', 'aiohttp'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert output.strip() == "[]"
