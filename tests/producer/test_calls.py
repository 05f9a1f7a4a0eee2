"""Embeddings, completions, rerank, score, tokenize and detokenize are jobs like chat, on every backend."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.producer.api import MODEL, Api, embedded_api, raw_post
from tests.support.wait_until import wait_until

EMBEDDINGS = "/v1/embeddings"
ALICE, BOB = "sk-alice-0123456789abcdef", "sk-bob-0123456789abcdef"
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": ["Hello", "Bye"], "max_tokens": 2},
    "/v1/embeddings": {"input": ["Hello", "Bye"]},
    "/v1/rerank": {"query": "red apples", "documents": ["blue", {"text": "red apples"}]},
    "/v2/rerank": {"query": "red apples", "documents": ["blue", "red apples"], "top_n": 1},
    "/rerank": {"query": "red apples", "documents": ["blue", "red apples"], "return_documents": False},
    "/v1/score": {"text_1": "red", "text_2": ["red", "blue"]},
    "/score": {"text_1": ["red"], "text_2": "red"},
    "/tokenize": {"prompt": "Hi", "return_token_strs": True},
    "/detokenize": {"tokens": [72, 105]},
}


def embed(text: Any = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": text, **fields}


@pytest.fixture(params=["embedded", "distributed"])
def any_api(request: pytest.FixtureRequest) -> Api:
    return request.getfixturevalue({"embedded": "api", "distributed": "distributed_api"}[request.param])


@pytest.fixture
async def two_tenants() -> AsyncIterator[Api]:
    async with embedded_api(api_keys=f"alice={ALICE},bob={BOB}") as api:
        yield api


def rows_of(body: Any) -> list[dict[str, Any]]:
    return next(body[name] for name in ("choices", "data", "results") if name in body)


async def test_every_endpoint_answers_at_once_and_as_a_job(any_api: Api) -> None:
    for path, fields in BODIES.items():
        body = {"model": MODEL, **fields}
        answer = await any_api.post(body, path)
        assert answer.status == 200, answer.body
        accepted = await any_api.post(body, path, Prefer="respond-async")
        assert accepted.status == 202, accepted.body
        job = await any_api.ended(accepted.json["id"])
        assert job["status"] == "completed", job
        assert job["endpoint"] == path.rpartition("/")[2]
        varying = ("id", "created")
        assert {key: value for key, value in job["result"].items() if key not in varying} == {
            key: value for key, value in answer.json.items() if key not in varying
        }
        assert (await any_api.get(f"/v1/jobs/{job['id']}/result")).json == job["result"]
        events = (await any_api.get(f"/v1/jobs/{job['id']}/events")).body
        assert events.count(b"data: ") == 2
        assert events.endswith(b"data: [DONE]\n\n")


async def test_what_they_answer(api: Api) -> None:
    answers = {path: (await api.post({"model": MODEL, **fields}, path)).json for path, fields in BODIES.items()}
    assert [row["text"] for row in answers["/v1/completions"]["choices"]] == [" t000 t001"] * 2
    assert [row["index"] for row in answers["/v1/embeddings"]["data"]] == [0, 1]
    assert [row["index"] for row in answers["/v1/rerank"]["results"]] == [1, 0]
    assert answers["/v1/rerank"]["results"][0]["document"] == {"text": "red apples"}
    assert [row["index"] for row in answers["/v2/rerank"]["results"]] == [1]
    assert "document" not in answers["/rerank"]["results"][0]
    assert [row["score"] for row in answers["/v1/score"]["data"]] == [1, 0]
    assert answers["/tokenize"] == {"count": 2, "max_model_len": None, "tokens": [72, 105], "token_strs": ["H", "i"]}
    assert answers["/detokenize"] == {"prompt": "Hi"}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (EMBEDDINGS, {}, "input"),
        (EMBEDDINGS, {"input": ""}, "input"),
        (EMBEDDINGS, {"input": []}, "input"),
        (EMBEDDINGS, {"input": ["a", 1]}, "input[1]"),
        (EMBEDDINGS, {"input": [1, -1]}, "input[1]"),
        (EMBEDDINGS, {"input": [[1], []]}, "input[1]"),
        (EMBEDDINGS, {"input": [[1], ["a"]]}, "input[1][0]"),
        (EMBEDDINGS, {"input": ["a"] * 2049}, "input"),
        (EMBEDDINGS, {"input": {"text": "a"}}, "input"),
        (EMBEDDINGS, {"input": "a", "dimensions": 0}, "dimensions"),
        (EMBEDDINGS, {"input": "a", "encoding_format": "hex"}, "encoding_format"),
        (EMBEDDINGS, {"input": "a", "lora_path": "/x"}, "lora_path"),
        (EMBEDDINGS, {"input": "a", "webhook_url": "http://127.0.0.1/"}, "webhook_url"),
        ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": 3}, "prompt"),
        ("/v1/completions", {"prompt": ["a"] * 2000, "n": 2}, "n"),
        ("/v1/completions", {"prompt": "a", "n": 2, "best_of": 1}, "best_of"),
        ("/v1/completions", {"prompt": "a", "stream": True}, "stream"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias.x"),
        ("/v1/rerank", {"documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["a", {"title": "b"}]}, "documents[1].text"),
        (
            "/v1/rerank",
            {"query": "a", "documents": [{"text": "b", "image_url": "x"}]},
            "documents[0].image_url",
        ),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a"]}, "text_1"),
        ("/v1/score", {"text_1": "a"}, "text_2"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [2**31]}, "tokens[0]"),
    ],
)
async def test_bad_input_names_the_field(idle_api: Api, path: str, fields: Any, param: str) -> None:
    answer = await idle_api.post({"model": MODEL, **fields}, path)
    assert answer.status == 400, answer.body
    assert answer.json["error"]["param"] == param
    assert answer.json["error"]["message"]


async def test_an_engines_refusal_and_failure_reach_the_client(api: Api) -> None:
    refused = await api.post(embed("refuse"), EMBEDDINGS)
    assert (refused.status, refused.json["error"]["param"]) == (400, "input")
    failed = await api.post(embed("break"), EMBEDDINGS)
    assert failed.status == 500
    assert "broke" in failed.json["error"]["message"]


async def test_a_hang_up_cancels_the_job(any_api: Api) -> None:
    any_api.engine.gate.clear()
    async with any_api.connected(raw_post(embed(), path=EMBEDDINGS)):
        await wait_until(lambda: any_api.engine.working, "the engine to work")
    await wait_until(lambda: not any_api.engine.working, "the engine to hear of it")
    (job,) = await any_api.jobs()
    assert (await any_api.ended(job["id"]))["status"] == "cancelled"


async def test_a_repeated_request_is_one_job(any_api: Api) -> None:
    headers = {"Idempotency_Key": "name"}
    first, again = await asyncio.gather(*(any_api.post(embed(), EMBEDDINGS, **headers) for _ in range(2)))
    assert first.json == again.json
    assert len(any_api.engine.asked) == 1
    other = await any_api.post(embed("other"), EMBEDDINGS, **headers)
    assert (other.status, other.json["error"]["code"]) == (422, "idempotency_key_reused")
    other = await any_api.post({"model": MODEL, "prompt": "a"}, "/v1/completions", **headers)
    assert other.status == 422


async def test_tenants_do_not_see_each_others_jobs(two_tenants: Api) -> None:
    alice, bob = ({"Authorization": f"Bearer {key}"} for key in (ALICE, BOB))
    for path, fields in BODIES.items():
        assert (await two_tenants.post({"model": MODEL, **fields}, path)).status == 401
        made = await two_tenants.post({"model": MODEL, **fields, "background": True}, path, **alice)
        job = f"/v1/jobs/{made.json['id']}"
        assert (await two_tenants.get(job, **alice)).status == 200
        for address in (job, f"{job}/result", f"{job}/events"):
            assert (await two_tenants.get(address, **bob)).status == 404


async def test_they_wait_in_the_queue_of_their_tier(idle_api: Api) -> None:
    for tier in ("flex", "default", "priority"):
        answer = await idle_api.post(embed(service_tier=tier, background=True), EMBEDDINGS)
        assert answer.status == 202
        assert (answer.json["service_tier"], answer.json["status"]) == (tier, "queued")


async def test_a_flex_call_answers(any_api: Api) -> None:
    answer = await any_api.post(embed(service_tier="flex"), EMBEDDINGS)
    assert answer.status == 200, answer.body


async def test_a_model_that_cannot_is_refused_with_what_it_can() -> None:
    async with embedded_api(worker=False, models="") as api:
        api.engine.card = replace(api.engine.card, capabilities=("chat", "stream", "embeddings"))
        async with api.worker():
            assert (await api.post(embed(), EMBEDDINGS)).status == 200
            refused = await api.post({"model": MODEL, "prompt": "a"}, "/v1/completions")
            assert (refused.status, refused.json["error"]["param"]) == (400, "model")
            assert refused.json["error"]["code"] == "unsupported_endpoint"
            assert "chat, embeddings" in refused.json["error"]["message"]


async def test_the_catalog_names_the_endpoints(api: Api) -> None:
    (model,) = (await api.get("/v1/models")).json["data"]
    assert {"chat", "completions", "embeddings", "rerank", "score", "tokenize", "detokenize"} <= {
        *model["capabilities"]
    }
