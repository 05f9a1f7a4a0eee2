"""The body that goes to HTTP is the body that goes to gRPC: it reaches the engine as the same request, and comes back
as the same answer, field by field.
"""

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
    """Asked to tell all, it answers with every field that an answer can have."""

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
    """Without what protobuf has no word for (null, a list or map without members), and what differs from job to job."""
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = value | value.get("extra_fields", {})
    kept = {key: comparable(item) for key, item in value.items() if key not in ("id", "created", "extra_fields")}
    return {key: item for key, item in kept.items() if item not in (None, [], {})}


def asked(request: Request) -> Request:
    """As `comparable`, for what reached the engine; a job without a seed got one of its own."""
    return comparable({key: value for key, value in request.items() if key != "seed" or value > 2**62})


def numbers_of(request: Request) -> list[str]:
    """Whole ones of `Value`s must not have got a point on the way: 1 is not 1.0 to everybody."""
    values = (request.get(name) or None for name in ("response_format", "tools", "top_k", "stop_token_ids", "thinking"))
    return [json.dumps(value, sort_keys=True) for value in values]


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("name", CORPUS)
async def test_both_doors_ask_and_answer_alike(api: Api, client: GrpcClient, name: str, stream: bool) -> None:
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
async def test_every_field_of_an_answer_comes_through(api: Api, client: GrpcClient, stream: bool) -> None:
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
