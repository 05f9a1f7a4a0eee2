"""A misbehaving upstream causes the right kind of error, and never a stream that looks complete."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from shared.errors import EngineError, EngineOverloaded, EngineRefused
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
    bare,
    streams,
)
from worker.engines.base import Chunk, Engine, EngineRequest
from worker.engines.open_engine import EngineSettings, open_engine
from worker.engines.openai import answering, server_health


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


async def test_null_is_absent(upstream: UpstreamServer, engine: Engine) -> None:
    message = {"role": "assistant", "content": None, "refusal": None, "audio": None, "tool_calls": []}
    await read(engine, {"messages": [message], "stop": None, "tools": None})
    (body,) = upstream.bodies
    assert body["messages"] == [{"role": "assistant", "content": None, "tool_calls": []}]
    assert body.keys() == {"messages", "model", "stream", "stream_options"}


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
async def test_errors_in_every_format(
    upstream: UpstreamServer, engine: Engine, body: Any, message: str, code: str
) -> None:
    upstream.behaviour = answers(400, body)
    with pytest.raises(EngineRefused, match=message) as refused:
        await read(engine, ask())
    assert refused.value.code == code


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({}, None),
    ],
)
async def test_overload_has_the_time_to_wait(
    upstream: UpstreamServer, engine: Engine, status: int, headers: dict[str, str], seconds: float | None
) -> None:
    upstream.behaviour = answers(status, {"error": {"message": "slow down"}}, **headers)
    for asked in (read(engine, ask()), engine.complete(ask())):
        with pytest.raises(EngineOverloaded, match="slow down") as overloaded:
            await asked
        assert overloaded.value.retry_after == seconds


@pytest.mark.parametrize("status", [402, 403, 409, 451])
async def test_the_servers_own_refusals_are_passed_on(upstream: UpstreamServer, engine: Engine, status: int) -> None:
    upstream.behaviour = answers(status, {"error": {"message": "flagged", "code": status}})
    for asked in (read(engine, ask()), engine.complete(ask())):
        with pytest.raises(EngineRefused, match="flagged"):
            await asked


@pytest.mark.parametrize(("status", "body"), [(401, {"error": {"message": "Incorrect key sk-7"}}), (403, b"Forbidden")])
async def test_a_refused_key_is_not_a_refusal_of_the_request(
    upstream: UpstreamServer, engine: Engine, status: int, body: Any
) -> None:
    upstream.behaviour = answers(status, body)
    with pytest.raises(EngineError, match="refuses the worker's API key") as refused:
        await read(engine, ask())
    assert "sk-7" not in refused.value.message


async def test_a_spent_quota_is_not_waited_for(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = answers(429, {"error": {"message": "no credit", "code": "insufficient_quota"}})
    with pytest.raises(EngineRefused, match="no credit"):
        await read(engine, ask())


async def test_errors_do_not_contain_the_servers_address(upstream: UpstreamServer) -> None:
    engine = open_engine(settings(upstream, url=upstream.url.replace("//", "//user:secret@")))
    await engine.start()
    failures: list[Behaviour] = [answers(500, b"oops"), answers(429, b"later"), streams(BEGIN, then="cut"), streams()]
    for behaviour in failures:
        upstream.behaviour = behaviour
        with pytest.raises(EngineError) as failed:
            await read(engine, ask())
        assert "127.0.0.1" not in failed.value.message
    await upstream.close()
    with pytest.raises(EngineError) as failed:
        await read(engine, ask())
    assert "127.0.0.1" not in failed.value.message
    reason = await engine.wait_unhealthy()
    assert "127.0.0.1" in reason
    assert "secret" not in reason
    await engine.close()


async def test_a_failing_upstream_is_an_engine_error(upstream: UpstreamServer, engine: Engine) -> None:
    for behaviour in (answers(500, b"oops"), answers(503, {}), answers(200, b"<html>")):
        upstream.behaviour = behaviour
        with pytest.raises(EngineError):
            await engine.complete(ask())


async def test_a_wrong_key_is_reported_at_the_start(upstream: UpstreamServer) -> None:
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


async def test_a_request_is_sent_again_only_where_its_connection_was_used_before(
    upstream: UpstreamServer, engine: Engine
) -> None:
    """A server may close an idle connection at any time; on a new connection it has read the request."""
    await read(engine, ask())
    upstream.behaviour = bare(then="abort")
    for _ in range(2):
        with pytest.raises(EngineError, match="lost"):
            await read(engine, ask())
    assert len(upstream.bodies) == 1 + 2 + 1


async def test_half_a_chunk_is_an_error(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(BEGIN, FINISH[:20])
    with pytest.raises(EngineError):
        await read(engine, ask())


async def test_a_finished_stream_without_its_last_line_is_complete(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(BEGIN, FINISH, USAGE_CHUNK)
    assert text_of(await read(engine, ask())) == "Hello"


async def test_usage_is_computed_if_the_upstream_does_not_count(upstream: UpstreamServer, engine: Engine) -> None:
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


async def test_closing_a_stream_disconnects_at_once(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(BEGIN, then="hang")
    stream = engine.generate(ask())
    await anext(stream)
    async with asyncio.timeout(60):
        await stream.aclose()
        await upstream.hung_up.wait()


async def test_cancelling_a_unary_call_disconnects_at_once(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(then="hang")
    call = asyncio.create_task(engine.complete(ask()))
    await wait_until(lambda: upstream.bodies, "the call to arrive")
    call.cancel()
    async with asyncio.timeout(60):
        await upstream.hung_up.wait()


async def test_closing_the_engine_ends_waiting_requests(upstream: UpstreamServer, engine: Engine) -> None:
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


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = {
    "done": ANSWER,
    "done, with a space": ANSWER.replace(b"[DONE]", b"[DONE] "),
    "done, without its blank line": ANSWER.rstrip(b"\n"),
    "usage": BEGIN + FINISH + USAGE_CHUNK,
    "the end": BEGIN + FINISH,
}


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("body", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("then", ["abort", "close", "hang"])
async def test_a_complete_stream_is_kept_however_its_connection_ends(
    upstream: UpstreamServer, engine: Engine, monkeypatch: pytest.MonkeyPatch, body: bytes, then: str
) -> None:
    monkeypatch.setattr(answering, "USAGE_TIMEOUT", 0.2)
    monkeypatch.setattr(answering, "END_TIMEOUT", 0.2)
    upstream.behaviour = bare(HEAD, chunked(body), then=then)
    chunks = await read(engine, ask())
    assert text_of(chunks) == "Hello"
    assert len(upstream.bodies) == 1


async def test_a_complete_unary_answer_is_kept_however_its_connection_ends(
    upstream: UpstreamServer, engine: Engine
) -> None:
    answer = orjson.dumps({"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]})
    upstream.behaviour = bare(HEAD.replace(b"text/event-stream", b"application/json"), chunked(answer))
    assert (await engine.complete(ask()))["choices"][0]["message"]["content"] == "Hello"
    upstream.behaviour = bare(HEAD, chunked(answer[:-9]))
    with pytest.raises(EngineError):
        await engine.complete(ask())


async def test_a_stream_or_completion_is_read_in_place_of_the_other(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = streams(ANSWER)
    assert (await engine.complete(ask()))["choices"][0]["message"]["content"] == "Hello"
    upstream.behaviour = answers(200, {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]})
    assert text_of(await read(engine, ask())) == "Hello"


@pytest.mark.parametrize(
    "behaviour",
    [
        streams(BEGIN, FINISH.replace(b"stop", b"abort"), DONE),
        streams(frame({"error": {"message": "out of memory"}}), DONE),
        streams(BEGIN, DONE),
        answers(500, b"oops"),
        answers(200, b"<html>"),
        streams(BEGIN, then="cut"),
    ],
    ids=["given up", "an error", "no reason", "500", "a page", "cut"],
)
async def test_no_answer_makes_the_server_unhealthy(
    upstream: UpstreamServer, engine: Engine, behaviour: Behaviour
) -> None:
    upstream.behaviour = behaviour
    unhealthy = asyncio.create_task(engine.wait_unhealthy())
    with pytest.raises(EngineError):
        await read(engine, ask())
    await engine.wait_healthy()
    assert not unhealthy.done()
    unhealthy.cancel()


async def test_a_silent_server_is_unhealthy_until_it_answers_a_probe(upstream: UpstreamServer) -> None:
    engine = open_engine(settings(upstream, stall_timeout=0.2))
    await engine.start()
    asked = upstream.model_asked
    upstream.behaviour = streams(BEGIN, then="hang")
    with pytest.raises(EngineError, match="stopped answering"):
        await read(engine, ask())
    assert "127.0.0.1" in await engine.wait_unhealthy()
    assert upstream.model_asked == asked
    await engine.wait_healthy()
    assert upstream.model_asked == asked + 1
    await engine.close()


# ── servers without a list of models ──


@pytest.mark.parametrize("status", [400, 404, 405, 429, 500, 501, 503])
async def test_any_answer_to_a_probe_counts_as_healthy(upstream: UpstreamServer, engine: Engine, status: int) -> None:
    upstream.models = web.Response(status=status, text="no list here")
    await upstream.stop_listening()
    upstream.behaviour = streams(then="cut")
    with pytest.raises(EngineError):
        await read(engine, ask())
    async with asyncio.timeout(60):
        await engine.wait_unhealthy()
        await upstream.listen()
        await engine.wait_healthy()


@pytest.mark.parametrize("status", [401, 403, 404, 405, 500, 501])
async def test_a_named_model_is_served_by_a_server_without_a_list(upstream: UpstreamServer, status: int) -> None:
    upstream.models = web.Response(status=status, text="no list here")
    engine = open_engine(settings(upstream, model="m"))
    async with asyncio.timeout(60):
        await engine.start()
    assert engine.card.id == "m"
    await engine.close()


async def test_without_a_list_of_models_a_name_is_required(upstream: UpstreamServer) -> None:
    for listed in ([], {"data": None}, {"data": [7]}, "x"):
        upstream.models = listed
        engine = open_engine(settings(upstream))
        with pytest.raises(EngineError, match="set model to the one to use"):
            await engine.start()
        await engine.close()


# ── what a server does not take ──


def refuses(*names: str, words: str = "Extra inputs are not permitted", status: int = 422) -> Behaviour:
    """Answers 422 for the first of these fields in a request, like pydantic's `extra="forbid"`."""

    async def behave(request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        for name in names:
            if name in body:
                detail = [{"loc": ["body", name], "msg": words}]
                return web.json_response({"detail": detail}, status=status)
        return await (streams(ANSWER) if body.get("stream") else answers(200, UNARY))(request)

    return behave


UNARY = {"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": USAGE}


def request_of_a_worker(**fields: Any) -> EngineRequest:
    request = EngineRequest(ask(**fields))
    request.added = frozenset({"seed", "parallel_tool_calls"})
    return request


async def test_a_refused_added_field_is_omitted_from_then_on(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = refuses("stream_options", "seed", "parallel_tool_calls")
    asked = request_of_a_worker(seed=7, parallel_tool_calls=False)
    for _ in range(2):
        assert text_of(await read(engine, asked)) == "Hello"
        assert (await engine.complete(asked))["choices"][0]["message"]["content"] == "Hello"
    assert len(upstream.bodies) == 3 + 4
    assert not {"seed", "stream_options", "parallel_tool_calls"} & upstream.bodies[-1].keys()


async def test_a_refused_field_of_the_client_is_a_refusal(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = refuses("seed", "top_k")
    for asked in (ask(seed=7), request_of_a_worker(top_k=3)):
        with pytest.raises(EngineRefused, match="Extra inputs"):
            await read(engine, asked)
    assert len(upstream.bodies) == 3  # the worker's seed was left out of the second request


async def test_a_token_limit_uses_its_older_name_if_the_newer_is_refused(
    upstream: UpstreamServer, engine: Engine
) -> None:
    upstream.behaviour = refuses("max_completion_tokens")
    asked = {**{key: value for key, value in ask().items() if key != "max_tokens"}, "max_completion_tokens": 5}
    for _ in range(2):
        await read(engine, asked)
    assert ["max_tokens" in body for body in upstream.bodies] == [False, True, True]
    assert upstream.bodies[-1]["max_tokens"] == 5


async def test_a_token_limit_uses_its_newer_name_if_the_refusal_names_it(
    upstream: UpstreamServer, engine: Engine
) -> None:
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    upstream.behaviour = refuses("max_tokens", words=words)
    for _ in range(2):
        await read(engine, ask(max_tokens=5))
    assert ["max_completion_tokens" in body for body in upstream.bodies] == [False, True, True]


async def test_a_limit_that_is_refused_by_both_names_is_refused(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = answers(400, {"error": {"message": "Neither max_tokens nor max_completion_tokens, please."}})
    for name in ("max_tokens", "max_completion_tokens"):
        with pytest.raises(EngineRefused, match="Neither"):
            await read(engine, {"messages": [], name: 5})
    assert len(upstream.bodies) == 4


async def test_an_added_field_that_breaks_a_server_is_omitted(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = refuses("stream_options", status=500)
    assert text_of(await read(engine, ask())) == "Hello"


async def test_long_headers_and_endless_errors(upstream: UpstreamServer, engine: Engine) -> None:
    long = HEAD.replace(b"\r\n\r\n", b"\r\nContent-Security-Policy: %b\r\n\r\n" % (b"a" * 30_000))
    upstream.behaviour = bare(long, chunked(ANSWER), b"0\r\n\r\n", then="close")
    assert text_of(await read(engine, ask())) == "Hello"
    upstream.behaviour = bare(HEAD.replace(b"200 OK", b"500 Oh no"), *[chunked(b"no " * 10_000)] * 20, then="hang")
    async with asyncio.timeout(60):
        with pytest.raises(EngineError, match="answered 500: no no"):
            await read(engine, ask())


async def test_a_refused_value_does_not_change_the_dialect(upstream: UpstreamServer, engine: Engine) -> None:
    upstream.behaviour = answers(400, {"error": {"message": "max_completion_tokens is too large: 5"}})
    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 5}
    with pytest.raises(EngineRefused, match="too large"):
        await read(engine, asked)
    upstream.behaviour = streams(ANSWER)
    await read(engine, asked)
    assert "max_completion_tokens" in upstream.bodies[-1]


async def test_the_dialect_can_be_configured(upstream: UpstreamServer) -> None:
    known = settings(upstream, omitted_fields=("seed",), knows_max_tokens_only=True)
    engine = open_engine(known)
    await engine.start()
    await read(engine, {"messages": [], "seed": 7, "max_completion_tokens": 5})
    (body,) = upstream.bodies
    assert "seed" not in body
    assert body["max_tokens"] == 5
    await engine.close()


async def test_missing_choices_are_requested_one_by_one(upstream: UpstreamServer, engine: Engine) -> None:
    for asked in (ask(n=3, seed=7), ask(n=2, seed=7)):
        chunks = await read(engine, asked)
        assert [text_of(chunks, index) for index in range(asked["n"])] == ["Hello"] * asked["n"]
        assert chunks[-1]["usage"]["completion_tokens"] == asked["n"] * USAGE["completion_tokens"]
        assert chunks[-1]["usage"]["prompt_tokens"] == USAGE["prompt_tokens"]
    assert [body.get("n") for body in upstream.bodies] == [3, None, None, None, None]
    assert sorted(body["seed"] for body in upstream.bodies[:3]) == [7, 8, 9]


async def test_an_upstream_that_stops_and_returns(upstream: UpstreamServer, engine: Engine) -> None:
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


async def test_the_loss_of_an_idle_upstream_is_noticed(
    upstream: UpstreamServer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_health, "PROBE_EVERY", 0.05)
    watching = asyncio.create_task(engine.wait_unhealthy())
    await wait_until(lambda: upstream.model_asked > 3, "it to be asked")
    assert not watching.done()
    await upstream.close()
    async with asyncio.timeout(60):
        assert "127.0.0.1" in await watching


async def test_a_busy_upstream_is_asked_only_for_its_models(
    upstream: UpstreamServer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_health, "PROBE_EVERY", 0.02)
    upstream.behaviour = streams(BEGIN, then="hang")
    stream = engine.generate(ask())
    await anext(stream)
    asked = upstream.model_asked
    upstream.models = web.Response(status=500)
    watching = asyncio.create_task(engine.wait_unhealthy())
    await wait_until(lambda: upstream.model_asked > asked + 3, "its models to be asked for")
    assert not watching.done()
    watching.cancel()
    await stream.aclose()


async def test_a_healthy_upstream_is_not_probed_again(upstream: UpstreamServer, engine: Engine) -> None:
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


async def test_a_loading_server_is_not_healthy(upstream: UpstreamServer) -> None:
    listed, upstream.models = upstream.models, web.Response(status=503, text="Loading model")
    engine = open_engine(settings(upstream))
    starting, healthy = asyncio.create_task(engine.start()), asyncio.create_task(engine.wait_healthy())
    await wait_until(lambda: upstream.model_asked >= 3, "the server to be asked")
    assert not healthy.done()
    upstream.models = listed
    async with asyncio.timeout(60):
        await starting
        await healthy
    await engine.close()


async def test_the_start_does_not_wait_for_ever(upstream: UpstreamServer) -> None:
    await upstream.stop_listening()
    engine = open_engine(settings(upstream, start_timeout=0.2))
    with pytest.raises(EngineError, match=r"not answered within 0\.2 seconds"):
        await engine.start()
    await engine.close()


async def test_vllm_gets_the_fields_to_continue(upstream: UpstreamServer) -> None:
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


async def test_an_upstream_may_be_unable_to_continue(upstream: UpstreamServer, engine: Engine) -> None:
    assert not engine.continues_text


def test_the_address_is_needed() -> None:
    with pytest.raises(EngineError, match="address"):
        open_engine(EngineSettings("openai"))
