"""The contract of engines (worker/engines/base.py)."""

import asyncio
from contextlib import aclosing

import pytest

from shared.errors import EngineError, EngineRefused
from tests.support.leak_check import no_leaks
from tests.worker.engines.requests import ask, ask_long, cut, pieces, read, text_of
from worker.engines.base import Engine
from worker.engines.open_engine import EngineSettings, open_engine
from worker.stream.fold import fold

WITHIN = 60


async def test_card_and_concurrency_are_known_once_started(settings: EngineSettings, engine: Engine) -> None:
    assert engine.card.id
    assert engine.card.engine == settings.kind
    assert engine.concurrency == settings.concurrency


async def test_a_stream_is_a_role_contents_a_finish_and_usage(engine: Engine) -> None:
    chunks = await read(engine, ask())
    first, *middle, finish, usage = chunks
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert all(chunk["choices"][0].get("finish_reason") is None for chunk in (first, *middle))
    assert finish["choices"][0]["finish_reason"] in {"stop", "length"}
    assert not finish["choices"][0]["delta"].get("content")
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == usage["usage"]["prompt_tokens"] + usage["usage"]["completion_tokens"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert len(pieces(chunks)) > 5


async def test_the_folded_stream_is_the_unary_answer(engine: Engine) -> None:
    folded = fold(await read(engine, ask()))
    unary = await engine.complete(ask())
    assert unary["object"] == "chat.completion"
    assert folded["choices"][0]["message"]["content"] == unary["choices"][0]["message"]["content"]
    assert folded["choices"][0]["finish_reason"] == unary["choices"][0]["finish_reason"]
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert folded["usage"][count] == unary["usage"][count]


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_the_token_limit_is_respected(engine: Engine, limit: str) -> None:
    request = {key: value for key, value in ask_long().items() if key != "max_tokens"}
    unary = await engine.complete({**request, limit: 5})
    assert unary["usage"]["completion_tokens"] == 5


async def test_every_choice_is_complete(engine: Engine) -> None:
    chunks = await read(engine, ask(n=3))
    folded = fold(chunks)
    assert [choice["index"] for choice in folded["choices"]] == [0, 1, 2]
    assert all(choice["finish_reason"] for choice in folded["choices"])
    assert all(text_of(chunks, index) for index in range(3))
    assert chunks[-1]["choices"] == []


async def test_concurrent_streams_do_not_mix(engine: Engine) -> None:
    requests = [ask(f"{text} seed={seed}") for seed, text in enumerate(("Hello!", "Hi", "Tell me a story", "Thanks"))]
    alone = [text_of(await read(engine, request)) for request in requests]
    together = await asyncio.gather(*(read(engine, request) for request in requests))
    assert [text_of(chunks) for chunks in together] == alone


async def test_closing_streams_frees_their_slots(engine: Engine) -> None:
    streams = [engine.generate(ask_long()) for _ in range(engine.concurrency)]
    for stream in streams:
        await anext(stream)
        await anext(stream)
    async with asyncio.timeout(WITHIN):
        for stream in streams:
            await stream.aclose()
        await asyncio.gather(*(engine.complete(ask()) for _ in range(engine.concurrency)))


async def test_cancelling_readers_frees_their_slots(engine: Engine) -> None:
    begun = asyncio.Semaphore(0)

    async def reading() -> None:
        async with aclosing(engine.generate(ask_long())) as chunks:
            async for _ in chunks:
                begun.release()

    readers = [asyncio.create_task(reading()) for _ in range(engine.concurrency)]
    for _ in readers:
        await begun.acquire()
    async with asyncio.timeout(WITHIN):
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
        await asyncio.gather(*(engine.complete(ask()) for _ in range(engine.concurrency)))


async def test_cancelling_unary_calls_frees_their_slots(engine: Engine) -> None:
    calls = [asyncio.create_task(engine.complete(ask_long())) for _ in range(engine.concurrency - 1)]
    await read(engine, ask(max_tokens=1))  # by now they have begun
    async with asyncio.timeout(WITHIN):
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await asyncio.gather(*(engine.complete(ask()) for _ in range(engine.concurrency)))


async def test_a_request_that_is_too_long_is_refused(settings: EngineSettings, engine: Engine) -> None:
    if settings.kind == "simulated":
        pytest.skip("the simulated engine refuses nothing")
    too_long = ask("word " * 5000)
    with pytest.raises(EngineRefused) as streamed:
        await read(engine, too_long)
    with pytest.raises(EngineRefused) as unary:
        await engine.complete(too_long)
    assert streamed.value.code == unary.value.code == "context_length_exceeded"
    assert (await engine.complete(ask()))["usage"]


async def test_a_prefix_is_continued_and_not_repeated(engine: Engine) -> None:
    assert engine.continues_text
    request = ask(max_tokens=16)
    whole = await read(engine, request)
    for known in (1, 5, 11):
        prefix, progress = cut(whole, known)
        assert engine.continues_from(request, prefix, progress)
        rest = await read(engine, request, prefix, progress)
        assert prefix + text_of(rest) == text_of(whole)
        for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert rest[-1]["usage"][count] == whole[-1]["usage"][count]


async def test_a_prefix_as_long_as_the_limit_only_gets_its_end(engine: Engine) -> None:
    request = ask(max_tokens=8)
    whole = await read(engine, request)
    rest = await read(engine, request, *cut(whole, len(whole)))
    assert text_of(rest) == ""
    assert rest[-2]["choices"][0]["finish_reason"]
    assert rest[-1]["usage"]["completion_tokens"] == 8


async def test_healthy_until_closed(engine: Engine) -> None:
    async with asyncio.timeout(WITHIN):
        await engine.wait_healthy()
        unhealthy = asyncio.create_task(engine.wait_unhealthy())
        await engine.complete(ask())
        assert not unhealthy.done()
        await engine.close()
        assert await unhealthy


async def test_closing_fails_what_is_running(engine: Engine) -> None:
    paused = engine.generate(ask_long())
    await anext(paused)
    reading = asyncio.create_task(read(engine, ask_long()))
    unary = asyncio.create_task(engine.complete(ask_long()))
    await anext(paused)
    async with asyncio.timeout(WITHIN):
        await engine.close()
        for running in (reading, unary, anext(paused)):
            with pytest.raises(EngineError):
                while await running:
                    running = anext(paused)


async def test_a_closed_engine_raises(engine: Engine) -> None:
    await engine.close()
    await engine.close()
    with pytest.raises(EngineError):
        await read(engine, ask())
    with pytest.raises(EngineError):
        await engine.complete(ask())


async def test_an_engine_that_was_not_started_raises_and_closes(settings: EngineSettings) -> None:
    engine = open_engine(settings)
    with pytest.raises(EngineError):
        await engine.complete(ask())
    await engine.close()


async def test_no_resources_are_left(settings: EngineSettings) -> None:
    async with no_leaks():
        engine = open_engine(settings)
        await engine.start()
        stream = engine.generate(ask_long())
        await anext(stream)
        await stream.aclose()
        await engine.complete(ask())
        await engine.close()
