"""One server with several models, of which some come and go."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.errors import EngineError, EngineRefused
from tests.support.wait_until import wait_until
from tests.worker.engines.requests import ask, read, text_of
from tests.worker.engines.upstream_server import UpstreamServer, answers
from worker.engines.base import Engine, EngineRequest
from worker.engines.open_engine import EngineSettings, open_engine
from worker.engines.openai import server_health

BASE = {"id": "base", "max_model_len": 512, "parent": None}
SQL = {"id": "sql", "parent": "base"}


@pytest.fixture
async def engine(upstream: UpstreamServer) -> AsyncIterator[Engine]:
    upstream.models = {"object": "list", "data": [BASE, SQL]}
    engine = open_engine(EngineSettings("openai", url=upstream.url, model_id="house"))
    await engine.start()
    yield engine
    await engine.close()


def ids(engine: Engine) -> list[str]:
    return [card.id for card in engine.cards]


async def test_each_request_goes_to_its_model(upstream: UpstreamServer, engine: Engine) -> None:
    assert ids(engine) == ["house", "sql"]
    for model in ("house", "sql"):
        assert text_of(await read(engine, ask(model=model))) == "Hello"
    assert (await engine.complete(ask(model="sql")))["choices"]
    assert [body["model"] for body in upstream.bodies] == ["base", "sql", "sql"]


async def test_models_come_and_go(upstream: UpstreamServer, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_health, "PROBE_EVERY", 0.02)
    watching = asyncio.create_task(engine.wait_unhealthy())
    changed = asyncio.create_task(engine.cards_changed())
    upstream.models = {"data": [{"id": "poems", "parent": "base"}, BASE]}
    async with asyncio.timeout(60):
        await changed
    assert ids(engine) == ["house", "poems"]
    with pytest.raises(EngineError, match="not serve the model 'sql' any more"):
        await read(engine, ask(model="sql"))
    asked = upstream.model_asked
    upstream.models = {"data": []}
    await wait_until(lambda: upstream.model_asked > asked + 2, "its models to be asked for")
    assert ids(engine) == ["house", "poems"], "an empty list tells nothing"
    watching.cancel()


async def test_a_refusal_for_want_of_the_model_may_pass_elsewhere(upstream: UpstreamServer, engine: Engine) -> None:
    error = {"message": "The model `sql` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
    upstream.behaviour = answers(404, {"error": error})
    with pytest.raises(EngineRefused):
        await read(engine, ask(model="sql"))
    upstream.models = {"data": [BASE]}
    with pytest.raises(EngineError, match="any more") as gone:
        await read(engine, ask(model="sql"))
    assert gone.value.retryable


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def salted(traceparent: str = TRACE) -> EngineRequest:
    request = EngineRequest(ask())
    request.cache_salt, request.traceparent = "salt", traceparent
    return request


@pytest.mark.parametrize(("owner", "salt"), [("vllm", "salt"), ("library", None)])
async def test_only_vllm_gets_a_cache_salt(upstream: UpstreamServer, owner: str, salt: str | None) -> None:
    upstream.models = {"data": [{**BASE, "owned_by": owner}]}
    engine = open_engine(EngineSettings("openai", url=upstream.url))
    await engine.start()
    await read(engine, salted())
    await engine.complete(salted())
    assert [body.get("cache_salt") for body in upstream.bodies] == [salt, salt]
    await engine.close()


async def test_a_vllm_that_knows_no_salt_is_asked_without(upstream: UpstreamServer) -> None:
    upstream.models = {"data": [{**BASE, "owned_by": "vllm"}]}
    engine = open_engine(EngineSettings("openai", url=upstream.url))
    await engine.start()
    answer, refuse = upstream.behaviour, answers(400, {"error": {"message": "Extra inputs", "param": "cache_salt"}})
    upstream.behaviour = lambda request: (refuse if "cache_salt" in upstream.bodies[-1] else answer)(request)
    for _ in range(2):
        assert text_of(await read(engine, salted())) == "Hello"
    assert ["cache_salt" in body for body in upstream.bodies] == [True, False, False]
    await engine.close()


async def test_the_trace_goes_on(upstream: UpstreamServer, engine: Engine) -> None:
    for traceparent in (TRACE, "nonsense", f"{TRACE}\r\nX-Evil: 1"):
        await read(engine, salted(traceparent))
    assert [headers.get("traceparent") for headers in upstream.headers] == [TRACE, None, None]
