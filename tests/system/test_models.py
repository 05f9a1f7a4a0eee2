"""One worker in front of a server with several models, the whole way from the API, on both backends."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from ignite.worker_process import running_engine, working
from shared.backends.distributed import open_distributed
from shared.backends.embedded.backend import open_embedded
from tests.producer.api import Api, running_api, settings_for_tests
from tests.support.wait_until import wait_until
from tests.worker.engines.upstream_server import UpstreamServer
from worker.engines.openai import server_health

VLLM = [
    {"id": "base", "max_model_len": 512, "parent": None, "owned_by": "vllm"},
    {"id": "sql", "parent": "base", "owned_by": "vllm"},
]
OLLAMA = [{"id": "llama3:8b", "owned_by": "library"}, {"id": "qwen3:0.6b", "owned_by": "library"}]
LLAMA_SERVER = [
    {"id": "a.gguf", "owned_by": "llamacpp", "meta": {"n_ctx": 4096}},
    {"id": "b.gguf", "owned_by": "llamacpp", "meta": {"n_ctx": 4096}},
]


@pytest.fixture(params=["embedded", "distributed"])
def backend_kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def upstream() -> AsyncGenerator[UpstreamServer]:
    server = UpstreamServer()
    await server.start()
    yield server
    await server.close()


@pytest.fixture
def open_api(backend_kind: str, upstream: UpstreamServer, request: pytest.FixtureRequest) -> Any:
    urls = [request.getfixturevalue(name) for name in ("amqp_url", "redis_url") if backend_kind == "distributed"]

    @asynccontextmanager
    async def opened(listed: list[dict[str, Any]], **changes: Any) -> AsyncGenerator[Api]:
        upstream.models = {"object": "list", "data": listed}
        settings = settings_for_tests(engine="openai", engine_url=upstream.url, **changes)
        async with AsyncExitStack() as stack:
            backend = await stack.enter_async_context(open_distributed(*urls) if urls else open_embedded(None))
            engine = await stack.enter_async_context(running_engine(settings))
            await stack.enter_async_context(working(backend, engine, settings))
            yield await stack.enter_async_context(running_api(backend, settings, worker=False))

    return opened


def ask(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}


async def listed(api: Api) -> dict[str, dict[str, Any]]:
    return {model["id"]: model for model in (await api.get("/v1/models")).json["data"] if model["workers"]}


@pytest.mark.parametrize("models", [VLLM, OLLAMA, LLAMA_SERVER], ids=["vllm", "ollama", "llama-server"])
async def test_every_model_of_the_server_is_served(
    open_api: Any, upstream: UpstreamServer, models: list[dict[str, Any]]
) -> None:
    names = [model["id"] for model in models]
    async with open_api(models, model_aliases=f"first,second={names[1]}") as api:
        for asked, model in zip([*names, "first", "second"], [*names, *names], strict=True):
            for stream in (False, True):
                answer = await api.post(ask(asked, stream=stream))
                assert answer.status == 200, answer.body
                assert (answer.frames[0] if stream else answer.json)["model"] == model
                assert upstream.bodies[-1]["model"] == model
        assert (await api.post(ask("another"))).status == 404
        known = await listed(api)
        assert [known[name]["parent"] for name in names] == [model.get("parent") for model in models]
        queues = (await api.get("/v1/queues")).json["data"]
        assert {queue["model"] for queue in queues} == {*names}
        (worker,) = (await api.get("/v1/workers")).json["data"]
        assert worker["models"] == names


async def test_an_adapter_that_is_loaded_later_is_served_within_a_probe(
    open_api: Any, upstream: UpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_health, "PROBE_EVERY", 0.05)
    async with open_api(VLLM[:1]) as api:
        assert (await api.post(ask("sql"))).status == 404
        upstream.models = {"data": VLLM}

        async def is_listed(*names: str) -> bool:
            return {*await listed(api)} == {*names}

        await wait_until(lambda: is_listed("base", "sql"), "the adapter to be listed")
        assert (await api.post(ask("sql"))).json["model"] == "sql"
        upstream.models = {"data": VLLM[:1]}
        await wait_until(lambda: is_listed("base"), "the adapter to be gone")
        waiting = asyncio.create_task(api.post(ask("sql")))
        upstream.models = {"data": VLLM}
        assert (await waiting).json["model"] == "sql", "a job that came in between waits for the model"


async def test_tenants_do_not_share_a_prefix_cache(open_api: Any, upstream: UpstreamServer) -> None:
    keys = {"alice": "key-of-alice-4711", "bob": "key-of-bob-4712-x"}
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with open_api(VLLM, api_keys=",".join(f"{name}={key}" for name, key in keys.items())) as api:
        for name, own in (("alice", None), ("bob", None), ("alice", None), ("alice", "mine")):
            headers = {"authorization": f"Bearer {keys[name]}", "traceparent": trace}
            assert (await api.post(ask("sql", cache_salt=own), **headers)).status == 200
        wrong = await api.post(ask("sql", cache_salt=7), authorization=f"Bearer {keys['bob']}")
        assert (wrong.status, wrong.error["param"]) == (400, "cache_salt")
    alice, bob, again, own = [body["cache_salt"] for body in upstream.bodies]
    assert alice == again
    assert len({alice, bob, own}) == 3
    assert {headers["traceparent"] for headers in upstream.headers} == {trace}


async def test_a_name_among_those_that_are_listed(open_api: Any, upstream: UpstreamServer) -> None:
    async with open_api(OLLAMA, model="qwen3:0.6b") as api:
        assert [*await listed(api)] == ["qwen3:0.6b"]
        assert (await api.post(ask("llama3:8b"))).status == 404
        assert upstream.bodies == []
