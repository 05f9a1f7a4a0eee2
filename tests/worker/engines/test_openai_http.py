"""An upstream that misbehaves is an error of the right kind, and never a stream that looks complete."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shared.errors import EngineError, EngineRefused
from shared.frames import DONE, frame
from tests.support.wait_until import wait_until
from tests.worker.engines.requests import ask, read, text_of
from tests.worker.engines.upstream_server import (
    ANSWER,
    BEGIN,
    FINISH,
    USAGE,
    USAGE_CHUNK,
    Behaviour,
    UpstreamServer,
    answers,
    streams,
)
from worker.engines import openai_http
from worker.engines.base import Chunk, Engine
from worker.engines.open_engine import EngineSettings, open_engine


def settings(upstream: UpstreamServer, **fields: Any) -> EngineSettings:
    return EngineSettings("openai", **{"url": upstream.url, **fields})


@pytest.fixture
async def engine(upstream: UpstreamServer) -> AsyncIterator[Engine]:
    engine = open_engine(settings(upstream, model="upstream-name", model_id="our-name", api_key="secret"))
    await engine.start()
    yield engine
    await engine.close()


async def test_the_request_goes_through_with_the_upstreams_model_and_usage(
    upstream: UpstreamServer, engine: Engine
) -> None:
    chunks = await read(engine, ask(top_k=3, stream_options={"continuous_usage_stats": True}))
    assert text_of(chunks) == "Hello"
    assert chunks[-1]["usage"] == USAGE
    [body] = upstream.bodies
    assert body["model"] == "upstream-name"
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert body["top_k"] == 3
    assert upstream.headers[0]["Authorization"] == "Bearer secret"


async def test_the_card_says_what_the_upstream_lists(upstream: UpstreamServer, engine: Engine) -> None:
    assert (engine.card.id, engine.card.context_length) == ("our-name", 512)
    unnamed = open_engine(settings(upstream))
    await unnamed.start()
    assert unnamed.card.id == "m"
    await unnamed.close()


async def test_one_connection_serves_one_request_after_another(upstream: UpstreamServer, engine: Engine) -> None:
    for _ in range(5):
        await read(engine, ask())
    assert len(upstream.connections) == 1


async def test_a_unix_socket(tmp_path: Path) -> None:
    server = UpstreamServer()
    await server.start(str(tmp_path / "s"))
    engine = open_engine(EngineSettings("openai", url=f"unix:{tmp_path / 's'}"))
    await engine.start()
    assert text_of(await read(engine, ask())) == "Hello"
    await engine.close()
    await server.close()


async def test_carriage_returns_and_comments(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(b": hello\r\n\r\n", ANSWER.replace(b"\n", b"\r\n"))
    assert text_of(await read(engine, ask())) == "Hello"


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_the_request_is_at_fault(upstream: UpstreamServer, engine: Engine, status: int) -> None:
    error = {"message": "top_k is too large", "type": "BadRequestError", "param": "top_k", "code": "invalid_top_k"}
    upstream.behaviour = answers(status, {"error": error})
    for asked in (read(engine, ask()), engine.complete(ask())):
        with pytest.raises(EngineRefused, match="top_k is too large") as refused:
            await asked
        assert (refused.value.param, refused.value.code) == ("top_k", "invalid_top_k")


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"object": "error", "message": "older vLLM", "code": 400}, "older vLLM", "invalid_value"),
        ({"detail": "FastAPI"}, "FastAPI", "invalid_value"),
        (b"plain text", "plain text", "invalid_value"),
        ({"error": "words"}, "words", "invalid_value"),
        (
            {"error": {"message": "This model's maximum context length is 512 tokens.", "code": 400}},
            "512",
            "context_length_exceeded",
        ),
    ],
)
async def test_errors_of_every_shape(
    upstream: UpstreamServer, engine: Engine, body: Any, message: str, code: str
) -> None:
    upstream.behaviour = answers(400, body)
    with pytest.raises(EngineRefused, match=message) as refused:
        await read(engine, ask())
    assert refused.value.code == code


async def test_overload_may_pass_and_says_when(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = answers(429, {"error": {"message": "slow down"}}, **{"Retry-After": "7"})
    with pytest.raises(EngineError, match="slow down") as overloaded:
        await read(engine, ask())
    assert overloaded.value.retryable
    assert overloaded.value.retry_after == 7


async def test_a_broken_upstream_may_pass(upstream: UpstreamServer, engine: Engine) -> None:
    for behaviour in (answers(500, b"oops"), answers(503, {}), answers(200, b"<html>")):
        upstream.behaviour = behaviour
        with pytest.raises(EngineError):
            await engine.complete(ask())


async def test_a_wrong_key_is_said_at_the_start(upstream: UpstreamServer) -> None:
    upstream.models = web.Response(status=401, text="{}")
    engine = open_engine(settings(upstream))
    with pytest.raises(EngineError, match="API key"):
        await engine.start()
    await engine.close()


async def test_an_error_inside_the_stream(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(BEGIN, frame({"error": {"message": "out of memory", "code": 500}}), DONE)
    with pytest.raises(EngineError, match="out of memory"):
        await read(engine, ask())
    upstream.behaviour = streams(frame({"error": {"message": "bad grammar", "code": 400}}), DONE)
    with pytest.raises(EngineRefused, match="bad grammar"):
        await read(engine, ask())


@pytest.mark.parametrize(
    "behaviour",
    [streams(BEGIN, then="cut"), streams(BEGIN), streams(BEGIN, DONE), streams()],
    ids=["cut", "no end", "no finish", "nothing"],
)
async def test_a_stream_that_ends_early_is_an_error(
    upstream: UpstreamServer, engine: Engine, behaviour: Behaviour
) -> None:
    upstream.behaviour = behaviour
    with pytest.raises(EngineError):
        await read(engine, ask())
    upstream.behaviour = streams(ANSWER)
    assert text_of(await read(engine, ask())) == "Hello"


async def test_half_a_chunk_is_an_error(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(BEGIN, FINISH[:20])
    with pytest.raises(EngineError):
        await read(engine, ask())


async def test_a_finished_stream_without_its_last_line_is_complete(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(BEGIN, FINISH, USAGE_CHUNK)
    assert text_of(await read(engine, ask())) == "Hello"


async def test_usage_is_there_even_where_the_upstream_does_not_count(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(BEGIN, FINISH, DONE)
    assert (await read(engine, ask()))[-1]["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("begun", [b"", BEGIN])
async def test_silence_is_an_error(upstream: UpstreamServer, begun: bytes) -> None:
    engine = open_engine(settings(upstream, stall_timeout=0.2))
    await engine.start()
    upstream.behaviour = streams(begun, then="hang")
    async with asyncio.timeout(60):
        with pytest.raises(EngineError):
            await read(engine, ask())
        await upstream.hung_up.wait()
        await engine.close()


async def test_closing_a_stream_hangs_up_at_once(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(BEGIN, then="hang")
    stream = engine.generate(ask())
    await anext(stream)
    async with asyncio.timeout(60):
        await stream.aclose()
        await upstream.hung_up.wait()


async def test_cancelling_a_unary_call_hangs_up_at_once(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(then="hang")
    call = asyncio.create_task(engine.complete(ask()))
    await wait_until(lambda: upstream.bodies, "the call to arrive")
    call.cancel()
    async with asyncio.timeout(60):
        await upstream.hung_up.wait()


async def test_closing_the_engine_ends_those_who_wait(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(BEGIN, then="hang")
    chunks: list[Chunk] = []

    async def reading() -> None:
        async for chunk in engine.generate(ask()):
            chunks.append(chunk)

    waiting = [asyncio.create_task(reading()), asyncio.create_task(engine.complete(ask()))]
    await wait_until(lambda: len(chunks) == 2 and len(upstream.bodies) == 2, "both to wait for more")
    async with asyncio.timeout(60):
        await engine.close()
        for end in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(end, EngineError)


async def test_an_upstream_that_goes_and_comes_back(upstream: UpstreamServer, engine: Engine) -> None:
    await upstream.stop_listening()
    upstream.behaviour = streams(then="cut")
    with pytest.raises(EngineError):
        await read(engine, ask())
    async with asyncio.timeout(60):
        assert "127.0.0.1" in await engine.wait_unhealthy()
        back = asyncio.create_task(engine.wait_healthy())
        await upstream.listen()
        upstream.behaviour = streams(ANSWER)
        await back
    assert text_of(await read(engine, ask())) == "Hello"


async def test_an_idle_upstream_that_goes_is_missed(
    upstream: UpstreamServer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_http, "ASK_WHEN_IDLE", 0.05)
    watching = asyncio.create_task(engine.wait_unhealthy())
    await wait_until(lambda: upstream.model_asked > 3, "it to be asked")
    assert not watching.done()
    await upstream.close()
    async with asyncio.timeout(60):
        assert "127.0.0.1" in await watching


async def test_a_busy_upstream_is_left_alone(
    upstream: UpstreamServer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_http, "ASK_WHEN_IDLE", 0.02)
    upstream.behaviour = streams(BEGIN, then="hang")
    stream = engine.generate(ask())
    await anext(stream)
    asked = upstream.model_asked
    watching = asyncio.create_task(engine.wait_unhealthy())
    await asyncio.wait([watching], timeout=0.2)
    assert upstream.model_asked == asked
    watching.cancel()
    await stream.aclose()


async def test_a_well_upstream_is_not_asked_again(upstream: UpstreamServer, engine: Engine) -> None:
    asked = upstream.model_asked
    await engine.wait_healthy()
    await read(engine, ask())
    await engine.wait_healthy()
    assert upstream.model_asked == asked


async def test_the_start_waits_for_the_upstream(upstream: UpstreamServer) -> None:
    await upstream.stop_listening()
    engine = open_engine(settings(upstream))
    starting = asyncio.create_task(engine.start())
    await upstream.listen()
    async with asyncio.timeout(60):
        await starting
    await engine.close()


async def test_the_start_does_not_wait_for_ever(upstream: UpstreamServer) -> None:
    await upstream.stop_listening()
    engine = open_engine(settings(upstream, start_timeout=0.2))
    with pytest.raises(EngineError, match=r"not answered within 0\.2 seconds"):
        await engine.start()
    await engine.close()


async def test_vllm_is_told_to_continue(upstream: UpstreamServer) -> None:
    engine = open_engine(settings(upstream, continuation="vllm"))
    await engine.start()
    chunks = await read(engine, ask(max_tokens=20), "three words here")
    [body] = upstream.bodies
    assert body["messages"][-1] == {"role": "assistant", "content": "three words here"}
    assert body["add_generation_prompt"] is False
    assert body["continue_final_message"] is True
    assert body["max_tokens"] == 17
    assert chunks[-1]["usage"]["completion_tokens"] == USAGE["completion_tokens"] + 3
    await engine.close()


async def test_an_upstream_that_cannot_continue_says_so(upstream: UpstreamServer, engine: Engine) -> None:
    assert not engine.continues_text


def test_the_address_is_needed() -> None:
    with pytest.raises(EngineError, match="address"):
        open_engine(EngineSettings("openai"))
