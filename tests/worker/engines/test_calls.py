"""Every engine answers embeddings, completions, tokenize and detokenize; how other servers' answers are read."""

import asyncio
import base64
import struct
from typing import Any

import pytest

from shared.errors import EngineError, EngineRefused
from shared.job import Api, Job, Tier
from tests.worker.engines.upstream_server import UpstreamServer, answers
from worker.engines.base import Engine
from worker.engines.open_engine import EngineSettings, open_engine
from worker.openai import calls

SERVED: dict[str, set[Api]] = {
    "simulated": {"completions", "detokenize", "embeddings", "rerank", "score", "tokenize"},
    "llamacpp": {"completions", "detokenize", "embeddings", "tokenize"},
    "openai": {"completions", "detokenize", "tokenize"},
    "vllm": {"completions", "detokenize", "tokenize"},
}
REQUESTS: dict[Api, dict[str, Any]] = {
    "completions": {"prompt": ["Hello", "Count from 1 to"], "max_tokens": 4, "n": 2},
    "detokenize": {"tokens": [70, 80]},
    "embeddings": {"input": ["Hello there", "Count from 1 to 10."]},
    "rerank": {"query": "red apples", "documents": ["blue", "red apples", "red"]},
    "score": {"text_1": "red", "text_2": ["red", "blue"]},
    "tokenize": {"prompt": "Hello there", "return_token_strs": True},
}


def job_of(api: Api) -> Job:
    return Job(
        "chatcmpl-1", "t", "m", Tier.DEFAULT, mode="unary", created_at=1, deadline_at=2, retention=1, api=api
    )  # fmt: skip


async def answer_of(engine: Engine, api: Api, **asked: Any) -> Any:
    """The answer as the worker stores it."""
    job = job_of(api)
    request = calls.call_request(REQUESTS[api] | asked, job)
    request.pop("model")
    return calls.answer(job, request, await engine.call(api, request))


@pytest.mark.parametrize("api", REQUESTS)
async def test_an_endpoint_is_answered_or_refused(settings: EngineSettings, engine: Engine, api: Api) -> None:
    if api in SERVED[settings.kind]:
        answer, usage = await answer_of(engine, api)
        assert answer
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    else:
        with pytest.raises(EngineRefused) as refused:
            await engine.call(api, dict(REQUESTS[api]))
        assert (refused.value.code, refused.value.param) == ("unsupported_endpoint", "model")
    announced = engine.card.capabilities
    assert not announced or (api in announced) == (api in SERVED[settings.kind])


async def test_equal_texts_have_equal_embeddings(settings: EngineSettings, engine: Engine) -> None:
    if "embeddings" not in SERVED[settings.kind]:
        pytest.skip("this engine has no embeddings")
    (one, _), (two, _) = await asyncio.gather(
        answer_of(engine, "embeddings", input=["a", "b", "a"]), answer_of(engine, "embeddings", input="a")
    )
    first, other, again = (row["embedding"] for row in one["data"])
    assert first == pytest.approx(again, abs=1e-5)
    assert first == pytest.approx(two["data"][0]["embedding"], abs=1e-5)
    assert first != pytest.approx(other, abs=1e-5)
    assert sum(number * number for number in first) == pytest.approx(1, abs=1e-3)


async def test_base64_has_the_same_numbers(settings: EngineSettings, engine: Engine) -> None:
    if "embeddings" not in SERVED[settings.kind]:
        pytest.skip("this engine has no embeddings")
    plain, _ = await answer_of(engine, "embeddings")
    packed, _ = await answer_of(engine, "embeddings", encoding_format="base64")
    for row, other in zip(plain["data"], packed["data"], strict=True):
        data = base64.b64decode(other["embedding"])
        assert [*struct.unpack(f"<{len(data) // 4}f", data)] == pytest.approx(row["embedding"], abs=1e-5)


async def test_every_prompt_has_its_choices_and_no_more_tokens_than_asked(engine: Engine) -> None:
    answer, usage = await answer_of(engine, "completions")
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert all(isinstance(choice["text"], str) for choice in answer["choices"])
    assert 0 < usage["completion_tokens"] <= 16
    assert answer["object"] == "text_completion"


async def test_detokenize_gives_the_text_back(engine: Engine) -> None:
    tokens, _ = await answer_of(engine, "tokenize", add_special_tokens=False)
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    text, _ = await answer_of(engine, "detokenize", tokens=tokens["tokens"])
    assert text == {"prompt": "Hello there"}


async def test_logprobs_have_the_old_form(settings: EngineSettings, engine: Engine) -> None:
    if settings.kind == "simulated":
        pytest.skip("the simulated engine has no logprobs")
    answer, _ = await answer_of(engine, "completions", prompt="Hello", n=1, logprobs=2)
    logprobs = answer["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == answer["choices"][0]["text"]
    assert len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"]) == len(logprobs["text_offset"]) == 4
    assert all(len(top) == 2 for top in logprobs["top_logprobs"])


async def test_chat_is_the_same_after_embeddings() -> None:
    """One process of llama.cpp does both."""
    engine = open_engine(EngineSettings("llamacpp", concurrency=2, context_length=512))
    try:
        await engine.start()
        chat = {"messages": [{"role": "user", "content": "Count from 1 to 10."}], "temperature": 0, "seed": 1}
        before = await engine.complete(dict(chat))
        at_once = [answer_of(engine, "embeddings") for _ in range(8)]
        _, after = await asyncio.gather(asyncio.gather(*at_once), engine.complete(dict(chat)))
        assert before["choices"] == after["choices"]
        with pytest.raises(EngineRefused) as refused:
            await answer_of(engine, "embeddings", input="word " * 2000)
        assert refused.value.code == "context_length_exceeded"
    finally:
        await engine.close()


# ── other servers ──


class Upstream:
    """An engine on a scripted server."""

    def __init__(self, server: UpstreamServer, engine: Engine) -> None:
        self.server, self.engine = server, engine

    async def embeddings(self, status: int, body: Any, **asked: Any) -> Any:
        self.server.behaviour = answers(status, body)
        answer, _ = await answer_of(self.engine, "embeddings", **asked)
        return [row["embedding"] for row in answer["data"]]


@pytest.fixture
async def scripted(upstream: UpstreamServer) -> Any:
    engine = open_engine(EngineSettings("openai", url=upstream.url, concurrency=2))
    try:
        await engine.start()
        yield Upstream(upstream, engine)
    finally:
        await engine.close()


def rows(*embeddings: Any) -> dict[str, Any]:
    return {"data": [{"index": at, "embedding": each} for at, each in enumerate(embeddings)], "usage": {}}


async def test_a_servers_form_is_turned_into_the_clients(scripted: Upstream) -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -2)).decode()
    assert await scripted.embeddings(200, rows(packed), input="a") == [[0.5, -2.0]]
    assert await scripted.embeddings(200, rows([0.5, -2]), input="a", encoding_format="base64") == [packed]
    backwards = {"data": [*reversed(rows([1], [2])["data"])]}
    assert await scripted.embeddings(200, backwards) == [[1.0], [2.0]]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>a page</html>",
        b"[1, 2]",
        b'"text"',
        b"",
        {"data": None},
        {"data": []},
        rows([1]),
        rows([1], [2], [3]),
        rows([1], []),
        rows([1], ["a"]),
        rows([1], [None]),
        rows([1], "§"),
        {"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]},
    ],
    ids=str,
)
async def test_an_answer_of_another_form_is_a_failure_of_the_engine(scripted: Upstream, body: Any) -> None:
    with pytest.raises(EngineError) as failed:
        await scripted.embeddings(200, body)
    assert failed.value.retryable


async def test_a_refusal_names_the_field(scripted: Upstream) -> None:
    refused = {"error": {"message": "too many dimensions", "param": "dimensions", "code": "bad"}}
    with pytest.raises(EngineRefused) as found:
        await scripted.embeddings(400, refused)
    assert (found.value.message, found.value.param) == ("too many dimensions", "dimensions")


async def test_a_server_without_the_route_says_so(scripted: Upstream) -> None:
    for missing in ({"detail": "Not Found"}, {"detail": "Method Not Allowed"}):
        with pytest.raises(EngineRefused) as found:
            await scripted.embeddings(404, missing)
        assert found.value.code == "unsupported_endpoint"
