"""Models that requests may name, their inputs, and jobs whose model has no worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from yarl import URL

from shared.ports import ModelInfo
from tests.contract.performers import a_worker
from tests.producer.api import MODEL, Api, ask, embedded_api
from tests.support.wait_until import wait_until

PARTS = {
    "image": {"type": "image_url", "image_url": {"url": "data:,x"}},
    "audio": {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    "file": {"type": "file", "file": {"file_id": "x"}},
}


def with_part(kind: str) -> dict[str, Any]:
    content = [{"type": "text", "text": "seed=7"}, PARTS[kind]]
    return ask(messages=[{"role": "system", "content": "x"}, {"role": "user", "content": content}])


@asynccontextmanager
async def announced(api: Api, model: str, *, worker: str = "one", **fields: Any) -> AsyncIterator[ModelInfo]:
    """Announces a worker for `model` that takes no jobs."""
    info = a_worker(worker, model)
    info = replace(info, model=replace(info.model, **{"aliases": (), "modalities": ()} | fields))
    async with api.backend.registry.join(info):
        yield info.model


async def names_listed(api: Api) -> list[str]:
    return [model["id"] for model in (await api.get("/v1/models")).json["data"]]


# ── names ──


async def test_a_job_by_an_alias_has_the_models_id() -> None:
    async with embedded_api(model_aliases="gpt-4o, fast/one", models="") as api:
        for alias in ("gpt-4o", "fast/one"):
            answer = await api.post(ask(model=alias))
            assert (answer.status, answer.json["model"]) == (200, MODEL)
            stream = await api.post(ask(model=alias, stream=True))
            assert {frame["model"] for frame in stream.frames} == {MODEL}
            assert (await api.job(await api.submit(ask(model=alias))))["model"] == MODEL
            assert (await api.get(f"/v1/models/{alias}")).json["id"] == MODEL
        (model,) = (await api.get("/v1/models")).json["data"]
        assert model["aliases"] == ["fast/one", "gpt-4o"]


async def test_the_operator_may_add_aliases() -> None:
    async with embedded_api(models=f"here, old={MODEL}, other=here", worker=False) as api:
        assert await names_listed(api) == ["here", MODEL]
        for alias, model in (("old", MODEL), ("other", "here")):
            assert (await api.get(f"/v1/models/{alias}")).json["id"] == model
            assert (await api.job(await api.submit(ask(model=alias))))["model"] == model


async def test_a_model_has_the_aliases_of_all_its_workers() -> None:
    async with (
        embedded_api(models="", worker=False) as api,
        announced(api, MODEL, aliases=("old",)),
        announced(api, MODEL, worker="another", aliases=("new",)),
    ):
        (model,) = (await api.get("/v1/models")).json["data"]
        assert (model["aliases"], model["workers"]) == (["new", "old"], 2)
        for alias in ("old", "new"):
            assert (await api.get(f"/v1/models/{alias}")).json["id"] == MODEL


async def test_an_id_takes_precedence_over_an_alias() -> None:
    async with embedded_api() as api, announced(api, "another", aliases=(MODEL, "mine")):
        await wait_until(lambda: names_listed(api), "the list")
        assert (await api.post(ask())).json["model"] == MODEL
        assert (await api.get("/v1/models/mine")).json["id"] == "another"


@pytest.mark.parametrize("model", ["Qwen/Qwen3-0.6B", "org/name:tag@rev", "a.b:c@d", "_a+b", "/models/a"])
async def test_ids_of_any_kind_are_found(model: str) -> None:
    async with embedded_api(models=model, worker=False) as api:
        answer = await api.call("GET", f"/v1/models/{model}")
        assert (answer.status, answer.json["id"]) == (200, model)
        assert (await api.job(await api.submit(ask(model=model))))["model"] == model


async def test_an_escaped_slash_in_a_model_id_is_decoded() -> None:
    async with embedded_api(models="Qwen/Qwen3-0.6B", worker=False) as api:
        answer = await api.call("GET", URL("/v1/models/Qwen%2FQwen3-0.6B", encoded=True))
        assert answer.json["id"] == "Qwen/Qwen3-0.6B"


# ── what a model takes ──


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_input_that_the_model_does_not_support_is_refused_at_submission(kind: str, stream: bool) -> None:
    async with embedded_api(model_modalities="text") as api:
        answer = await api.post(with_part(kind) | {"stream": stream})
        assert (answer.status, answer.error["param"]) == (400, "messages[1].content[1]")
        assert not api.engine.asked


@pytest.mark.parametrize("modalities", ["", "text,image,audio,file"])
async def test_supported_input_reaches_the_engine_and_so_does_unknown(modalities: str) -> None:
    async with embedded_api(model_modalities=modalities) as api:
        for kind in PARTS:
            assert (await api.post(with_part(kind))).status == 200
        assert len(api.engine.asked) == len(PARTS)
        (model,) = (await api.get("/v1/models")).json["data"]
        assert model["modalities"] == [name for name in modalities.split(",") if name]


async def test_a_text_model_refuses_audio_output() -> None:
    async with embedded_api(model_modalities="text") as api:
        answer = await api.post(ask(modalities=["text", "audio"], audio={"format": "wav", "voice": "ash"}))
        assert (answer.status, answer.error["param"]) == (400, "modalities")


# ── workers ──


async def test_a_job_shows_that_its_model_has_no_worker(idle_api: Api) -> None:
    job = await idle_api.submit(ask())
    assert (await idle_api.job(job))["queue"] == {"position": 1, "eta_seconds": None, "workers": 0}
    (model,) = (await idle_api.get("/v1/models")).json["data"]
    assert (model["id"], model["engine"], model["workers"]) == (MODEL, "configured", 0)
    async with idle_api.worker():
        assert (await idle_api.ended(job))["status"] == "completed"


async def test_a_stream_shows_that_its_model_has_no_worker() -> None:
    async with embedded_api(worker=False, keepalive=0.05) as api:
        async with api.http.post("/v1/chat/completions", json=ask(stream=True)) as response:
            assert await response.content.readline() == b": queued position=1 workers=0\n"
            async with api.worker():
                rest = await response.read()
        assert rest.endswith(b"data: [DONE]\n\n")


async def test_jobs_of_an_abandoned_model_are_refused_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.catalog.FRESH", 0.0)
    async with embedded_api(worker=False, models="", worker_patience=0) as api:
        async with announced(api, "here today"):
            job = await api.submit(ask(model="here today"))
        for fields in ({}, {"stream": True}, {"background": True}):
            answer = await api.post(ask(model="here today", **fields))
            assert (answer.status, answer.error["code"]) == (503, "no_worker_for_model")
            assert 1 <= int(answer.headers["retry-after"]) <= 120
        assert (await api.job(job))["status"] == "queued"
        assert await names_listed(api) == ["here today"]


async def test_jobs_wait_while_an_announced_models_workers_may_return() -> None:
    async with embedded_api(worker=False, models="") as api:
        async with announced(api, MODEL):
            pass
        job = await api.submit(ask())
        async with api.worker():
            assert (await api.ended(job))["status"] == "completed"
