"""Every error has the documented gRPC status, and HTTP's JSON error in its details."""

from typing import Any

import grpc
import pytest

from tests.producer.api import Api, ask, embedded_api
from tests.support.grpc_client import GrpcClient, grpc_client, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"messages": []}, "messages", "Missing required parameter: 'messages'"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "robot"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "Missing"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "Missing"),
        ({"model": ""}, "model", "model"),
        ({"n": 129}, "n", "128"),
        ({"temperature": 2.5}, "temperature", "2"),
        ({"stop": ["a"] * 5}, "stop", "4"),
        ({"top_logprobs": 3}, "top_logprobs", "'logprobs' is true"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "'stream' is true"),
        ({"tool_choice": "required"}, "tool_choice", "'tools'"),
        ({"background": True}, "background", "POST /v1/chat/completions"),
        ({"deadline_seconds": 0}, "deadline_seconds", "greater than 0"),
        ({"extra_body": {"seed": 1}, "seed": 2}, "extra_body.seed", "the message has this field as well"),
        ({"temperature": "NaN"}, "temperature", "expected a finite number, not nan"),
        ({"extra_body": {"n": "one"}}, "n", "integer"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_an_invalid_field_is_named(
    api: Api, client: GrpcClient, change: dict[str, Any], param: str, says: str
) -> None:
    asked = len(api.engine.asked)
    refusal = await refused(client.unary(ask() | change))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert (refusal.error["code"], refusal.error["type"]) == ("invalid_value", "invalid_request_error")
    assert refusal.error["param"] == param
    assert says in refusal.message
    assert refusal.retry_after is None
    assert len(api.engine.asked) == asked


async def test_a_number_that_json_cannot_express_is_refused(client: GrpcClient) -> None:
    message: Any = client.message(ask(top_k=[{"a": 1}]))
    message.top_k.list_value.values[0].struct_value.fields["a"].number_value = float("inf")
    refusal = await refused(client.stream(message))
    assert (refusal.code, refusal.error["param"]) == (Code.INVALID_ARGUMENT, "top_k[0].a")


@pytest.mark.parametrize("junk", [b"\xff", b"\x0a\x01\xff", b"\x12\x80"], ids=repr)
async def test_bytes_that_are_not_a_message_are_refused(client: GrpcClient, junk: bytes) -> None:
    call = client.channel.unary_unary("/dodil.ignite.v1.ModelService/ChatCompletion")(junk)
    refusal = await refused(call)
    assert (refusal.code, refusal.error["code"]) == (Code.INVALID_ARGUMENT, "invalid_value")


async def test_an_unknown_model(client: GrpcClient) -> None:
    for call in (client.unary(ask(model="none")), client.stream(ask(model="none"))):
        refusal = await refused(call)
        assert (refusal.code, refusal.error["code"], refusal.error["param"]) == (
            Code.NOT_FOUND,
            "model_not_found",
            "model",
        )


async def test_an_engine_that_refuses_is_quoted(client: GrpcClient) -> None:
    for call in (client.unary(ask("refuse")), client.stream(ask("refuse"))):
        refusal = await refused(call)
        assert (refusal.code, refusal.message) == (Code.INVALID_ARGUMENT, "The prompt is too long.")
        assert (refusal.error["code"], refusal.error["param"]) == ("context_length_exceeded", "messages")
        assert refusal.metadata["x-job-id"].startswith("chatcmpl-")


async def test_an_engine_that_fails_during_a_stream(client: GrpcClient) -> None:
    refusal = await refused(client.stream(ask("break")))
    said = [chunk["choices"][0]["delta"] for chunk in refusal.said]
    assert said == [{"role": "assistant", "content": ""}, {"content": " t000"}]
    assert (refusal.code, refusal.error["type"]) == (Code.INTERNAL, "server_error")


async def test_a_job_that_another_client_cancels(api: Api, client: GrpcClient) -> None:
    call = client.stream(ask("itl=60000"))
    job = str(dict(await call.initial_metadata())["x-job-id"])
    await api.call("POST", f"/v1/jobs/{job}/cancel")
    refusal = await refused(call)
    assert (refusal.code, refusal.error["code"]) == (Code.CANCELLED, "cancelled")


async def test_a_deadline_in_the_body(client: GrpcClient) -> None:
    refusal = await refused(client.unary(ask("ttft=60000", deadline_seconds=0.2)))
    assert (refusal.code, refusal.error["code"]) == (Code.DEADLINE_EXCEEDED, "deadline_exceeded")


async def test_a_message_over_the_limit() -> None:
    async with embedded_api(grpc=True, body_limit=4096) as api, grpc_client(api.grpc_address) as client:
        refusal = await refused(client.unary(ask("x" * 5000)))
        assert refusal.code is Code.RESOURCE_EXHAUSTED
        escaped = await refused(client.unary(ask("\x01" * 2000)))
        assert (escaped.code, escaped.error["code"]) == (Code.RESOURCE_EXHAUSTED, "request_too_large")
        assert (await client.answer(ask("x" * 3000)))["object"] == "chat.completion"


async def test_a_full_queue_sends_retry_after() -> None:
    async with (
        embedded_api(worker=False, grpc=True, queue_limit=1) as api,
        grpc_client(api.grpc_address) as client,
    ):
        await api.submit(ask())
        refusal = await refused(client.unary(ask()))
        assert (refusal.code, refusal.error["code"]) == (Code.RESOURCE_EXHAUSTED, "queue_full")
        assert refusal.retry_after is not None
        assert 1 <= refusal.retry_after <= 120


async def test_a_server_that_is_shutting_down_refuses_calls() -> None:
    async with embedded_api(grpc=True) as api, grpc_client(api.grpc_address) as client:
        api.service.draining = True
        refusal = await refused(client.stream(ask()))
        assert (refusal.code, refusal.error["code"]) == (Code.UNAVAILABLE, "shutting_down")
        assert refusal.retry_after is not None


async def test_an_internal_error_reveals_nothing(api: Api, client: GrpcClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.rpc.calls.body_of", lambda _: 1 / 0)
    refusal = await refused(client.unary(ask()))
    assert (refusal.code, refusal.error["code"]) == (Code.INTERNAL, "internal_error")
    assert refusal.message == "The server failed on this request."


# ── keys ──


async def test_calls_without_a_key_are_refused() -> None:
    keys = "alice=sk-alice-1-0123456789,bob=sk-bob-222-0123456789"
    async with embedded_api(grpc=True, api_keys=keys) as api, grpc_client(api.grpc_address) as client:
        for metadata in ({}, {"authorization": "Bearer sk-nobody"}, {"authorization": "sk-alice-1-0123456789"}):
            for call in (client.unary(ask(), metadata=metadata), client.stream(ask(), metadata=metadata)):
                refusal = await refused(call)
                assert (refusal.code, refusal.error["code"]) == (Code.UNAUTHENTICATED, "invalid_api_key")
        answer = await client.answer(ask(), metadata={"authorization": "Bearer sk-alice-1-0123456789"})
        job = f"/v1/jobs/{answer['id']}"
        assert (await api.get(job, authorization="Bearer sk-alice-1-0123456789")).status == 200
        assert (await api.get(job, authorization="Bearer sk-bob-222-0123456789")).status == 404
