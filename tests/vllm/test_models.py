"""A vLLM with LoRA adapters behind Ignite: each is a model, and tenants do not share its prefix cache."""

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ignite.worker_process import running_engine, working
from shared.backends.embedded.backend import open_embedded
from tests.producer.api import Api, running_api, settings_for_tests
from tests.support.wait_until import wait_until
from tests.vllm.server import ENVIRONMENT, MODEL, Vllm, environment
from worker.engines.openai import server_health

KEYS = {"alice": "key-of-alice-4711", "bob": "key-of-bob-4712-x"}
EXTRAS: dict[str, dict[str, Any]] = {
    "structured": {"structured_outputs": {"regex": "[a-c]{3}"}},
    "template": {"chat_template_kwargs": {"enable_thinking": False}},
    "least": {"min_tokens": 12, "stop": ["\r"]},
    "stop": {"stop": ["\r"], "include_stop_str_in_output": True},
    "prompt": {"prompt_logprobs": 1},
    "reasoning": {"include_reasoning": True},
}


@pytest.fixture(scope="module")
def adapters(models: Path) -> Path:
    for name in ("sql", "poems"):
        maker = Path(__file__).with_name("make_adapter.py")
        command = [str(ENVIRONMENT / "bin" / "python"), str(maker), str(models / "plain"), str(models / name)]
        subprocess.run(command, check=True, env={**os.environ, **environment()}, capture_output=True)
    return models


@pytest.fixture(scope="module")
def adapted(adapters: Path) -> Iterator[Vllm]:
    arguments = ("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"sql={adapters / 'sql'}")
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        patch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True")
        server = runner.run(Vllm.start(adapters / "plain", adapters, *arguments))
        yield server
        runner.run(server.close())


@pytest.fixture
async def api(adapted: Vllm, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Api]:
    monkeypatch.setattr(server_health, "PROBE_EVERY", 0.2)
    keys = ",".join(f"{name}={key}" for name, key in KEYS.items())
    settings = settings_for_tests(engine="openai", engine_url=adapted.url, api_keys=keys)
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(open_embedded(None))
        engine = await stack.enter_async_context(running_engine(settings))
        await stack.enter_async_context(working(backend, engine, settings))
        yield await stack.enter_async_context(running_api(backend, settings, worker=False))


def ask(model: str = MODEL, prompt: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 12,
    } | fields


async def asked(api: Api, body: dict[str, Any], tenant: str = "alice") -> Any:
    return await api.post(body, authorization=f"Bearer {KEYS[tenant]}")


async def text(api: Api, body: dict[str, Any], tenant: str = "alice") -> str:
    answer = await asked(api, body, tenant)
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]["message"]["content"]


async def direct(server: Vllm, path: str, body: dict[str, Any]) -> str:
    async with aiohttp.ClientSession() as session, session.post(f"{server.url}{path}", json=body) as response:
        assert response.status == 200, await response.text()
        return await response.text()


async def test_adapters_answer_as_themselves_and_come_and_go(api: Api, adapted: Vllm, adapters: Path) -> None:
    texts = [await text(api, ask(model)) for model in (MODEL, "sql")]
    assert texts[0] != texts[1]
    assert (await asked(api, ask("poems"))).status == 404
    await direct(adapted, "/load_lora_adapter", {"lora_name": "poems", "lora_path": str(adapters / "poems")})

    async def is_served() -> bool:
        return (await asked(api, ask("poems"))).status == 200

    await wait_until(is_served, "the adapter to be served")
    assert await text(api, ask("poems"), "bob") not in texts
    page = (await api.get("/v1/models/poems", authorization=f"Bearer {KEYS['bob']}")).json
    assert (page["parent"], page["context_length"], page["workers"]) == (MODEL, 2048, 1)
    await direct(adapted, "/unload_lora_adapter", {"lora_name": "poems"})


async def test_tenants_do_not_share_the_prefix_cache(api: Api, adapted: Vllm) -> None:
    async def hits(tenant: str, **fields: Any) -> float:
        before = await adapted.metric("vllm:prefix_cache_hits_total")
        await text(api, ask(prompt="tell me about rivers " * 40, **fields), tenant)
        return await adapted.metric("vllm:prefix_cache_hits_total") - before

    assert await hits("alice") == 0
    assert await hits("alice") > 0
    assert await hits("bob") == 0
    assert await hits("alice", cache_salt="of her own") == 0


@pytest.mark.parametrize("fields", EXTRAS.values(), ids=EXTRAS)
async def test_vllms_own_fields_reach_it(api: Api, adapted: Vllm, fields: dict[str, Any]) -> None:
    expected = await adapted.answer(ask(**fields))
    answer = (await asked(api, ask(**fields))).json
    (choice,), (wanted,) = answer["choices"], expected["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (
        wanted["message"]["content"],
        wanted["finish_reason"],
    )
    assert answer.get("prompt_logprobs") == expected.get("prompt_logprobs")


async def test_what_it_cannot_take_is_refused(api: Api) -> None:
    code = await asked(api, ask(logits_processors=["os.system"]))
    assert (code.status, code.error["param"]) == (400, "logits_processors")
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    refused = await asked(api, ask(messages=[{"role": "user", "content": [picture]}]))
    assert refused.status == 400
    assert "multimodal" in refused.error["message"]


async def test_the_engines_own_state_is_told(api: Api) -> None:
    await text(api, ask())
    (worker,) = await api.backend.registry.workers()
    assert [model.id for model in worker.models][:2] == [MODEL, "sql"]
    assert worker.engine_state is not None
    assert worker.engine_state.kv_cache_usage is not None
