"""HTTP and gRPC take the same body: the engine gets equal requests, and clients get equal answers, field by field."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from producer.rpc.messages import SHAPES
from shared.settings import Settings
from tests.producer.api import COMPLETIONS, Api, WatchedEngine, ask
from tests.producer.grpc.conftest import opened_api
from tests.producer.grpc.corpus import CALLS, CORPUS, LEFT_OUT, LOGPROBS, MESSAGE, SHELL, USAGE, WEATHER
from tests.support.grpc_client import GrpcClient
from worker.engines.base import Chunk, Completion, Request

pytestmark = pytest.mark.asyncio(loop_scope="module")


class TellingEngine(WatchedEngine):
    """Can answer with every field that an answer may have."""

    async def generate(self, request: Request, prefix: str = "", progress: bytes = b"") -> AsyncGenerator[Chunk]:
        if request["messages"][-1]["content"] != "tell all":
            async for chunk in super().generate(request, prefix):
                yield chunk
            return
        for delta in ({key: value} for key, value in MESSAGE.items() if key != "annotations"):
            yield {"choices": [{"index": 0, "delta": delta, "logprobs": LOGPROBS, "finish_reason": None}]}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}], "usage": USAGE}

    async def complete(self, request: Request) -> Completion:
        if request["messages"][-1]["content"] != "tell all":
            return await super().complete(request)
        choice = {"index": 0, "message": MESSAGE, "logprobs": LOGPROBS, "finish_reason": "length"}
        return {"choices": [choice], "usage": USAGE}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with opened_api(settings, worker=False) as api:
        api.engine = TellingEngine()
        async with api.worker():
            yield api


def body_of(name: str) -> dict[str, Any]:
    return ask() | CORPUS[name]


async def http(api: Api, body: dict[str, Any], *, stream: bool) -> list[dict[str, Any]]:
    answer = await api.post(body | {"stream": stream}, f"{COMPLETIONS}/stream" if stream else COMPLETIONS)
    assert answer.status == 200, answer.body
    return answer.frames if stream else [answer.json]


async def grpc(client: GrpcClient, body: dict[str, Any], *, stream: bool) -> list[dict[str, Any]]:
    return await client.chunks(body) if stream else [await client.answer(body)]


def comparable(value: Any) -> Any:
    """Returns the value without parts that protobuf cannot express (null, empty lists and maps) and without parts
    that differ by job.
    """
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = value | value.get("extra_fields", {})
    kept = {key: comparable(item) for key, item in value.items() if key not in ("id", "created", "extra_fields")}
    return {key: item for key, item in kept.items() if item not in (None, [], {})}


def asked(request: Request) -> Request:
    """As `comparable`, for the engine's request, without a generated seed."""
    return comparable({key: value for key, value in request.items() if key != "seed" or value > 2**62})


def numbers_of(request: Request) -> list[str]:
    """Returns all numbers: integers must not become floats in a `Value`, because engines may distinguish 1 from 1.0."""
    values = (request.get(name) or None for name in ("response_format", "tools", "top_k", "stop_token_ids", "thinking"))
    return [json.dumps(value, sort_keys=True) for value in values]


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("name", CORPUS)
async def test_http_and_grpc_pass_on_equal_requests_and_answers(
    api: Api, client: GrpcClient, name: str, stream: bool
) -> None:
    body = body_of(name)
    if not stream:
        body.pop("stream_options", None)
    over_http = await http(api, body, stream=stream)
    first = api.engine.asked[-1]
    over_grpc = await grpc(client, body, stream=stream)
    second = api.engine.asked[-1]
    assert first is not second
    assert asked(first) == asked(second)
    assert numbers_of(first) == numbers_of(second)
    assert [comparable(each) for each in over_http] == [comparable(each) for each in over_grpc]


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_every_field_of_an_answer_is_passed_on(api: Api, client: GrpcClient, stream: bool) -> None:
    body = ask("tell all", stream_options={"include_usage": True} if stream else None)
    over_http = await http(api, body, stream=stream)
    over_grpc = await grpc(client, body, stream=stream)
    assert [comparable(each) for each in over_http] == [comparable(each) for each in over_grpc]
    assert "thought" in json.dumps(over_grpc)


async def test_the_corpus_names_every_field_of_a_request() -> None:
    named = {name for body in CORPUS.values() for name in body} | {"model", "messages"}
    assert named == set(SHAPES["ChatCompletionRequest"]) - LEFT_OUT
    for kind, parts in {
        "ChatMessage": [message for body in CORPUS.values() for message in body.get("messages", ())],
        "ToolCall": CALLS,
        "Tool": [WEATHER, SHELL],
        "FunctionDefinition": [WEATHER["function"]],
        "CustomTool": [SHELL["custom"]],
        "StreamOptions": [CORPUS["sampling"]["stream_options"]],
    }.items():
        assert {name for part in parts for name in part} == set(SHAPES[kind]) - LEFT_OUT, kind
