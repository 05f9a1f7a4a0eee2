"""A call over gRPC, from its message to its answer."""

import asyncio

import pytest

from tests.producer.api import Api, ask
from tests.support.grpc_client import GrpcClient, as_json, refused
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_unary(client: GrpcClient) -> None:
    answer = await client.answer(ask())
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": " t007 t008 t009"}, "finish_reason": "stop"}
    ]
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}


async def test_stream(client: GrpcClient) -> None:
    chunks = await client.chunks(ask(stream_options={"include_usage": True}))
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert [chunk.get("choices") for chunk in chunks] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}}],
        [{"index": 0, "delta": {"content": " t007"}}],
        [{"index": 0, "delta": {"content": " t008"}}],
        [{"index": 0, "delta": {"content": " t009"}}],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        None,
    ]
    assert chunks[-1]["usage"]["total_tokens"] == 4


async def test_the_method_decides_whether_the_answer_is_a_stream(client: GrpcClient) -> None:
    assert (await client.answer(ask(stream=True)))["object"] == "chat.completion"
    assert len(await client.chunks(ask(stream=False))) == 5


async def test_the_first_message_does_not_wait_for_the_last(api: Api, client: GrpcClient) -> None:
    call = client.stream(ask("itl=60000"))
    assert as_json(await call.read())["choices"][0]["delta"]["role"] == "assistant"
    assert as_json(await call.read())["choices"][0]["delta"]["content"] == " t000"
    assert not call.done()
    call.cancel()
    await wait_until(lambda: not api.engine.working)


async def test_a_long_stream_is_complete_and_in_order(client: GrpcClient) -> None:
    chunks = await client.chunks(ask("seed=0", max_tokens=3000))
    said = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert said == ["", *(f" t{number % 1000:03d}" for number in range(3000)), ""]


async def test_many_calls_on_one_channel_do_not_mix(client: GrpcClient) -> None:
    seeds = range(100, 140)
    streams = asyncio.gather(*(client.chunks(ask(f"seed={seed}")) for seed in seeds))
    answers = await asyncio.gather(*(client.answer(ask(f"seed={seed}")) for seed in seeds))
    for seed, answer, chunks in zip(seeds, answers, await streams, strict=True):
        text = f" t{seed} t{seed + 1} t{seed + 2}"
        assert answer["choices"][0]["message"]["content"] == text
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text


async def test_metadata_names_the_call_and_its_job(api: Api, client: GrpcClient) -> None:
    for call in (client.unary(ask()), client.stream(ask())):
        metadata = dict(await call.initial_metadata())
        job = await api.ended(str(metadata["x-job-id"]))
        assert job["model"] == "simulated"
        assert {"x-request-id", "x-queue-wait-ms", "openai-processing-ms"} <= set(metadata)


async def test_a_clients_own_request_id_is_kept(client: GrpcClient) -> None:
    call = client.unary(ask(), metadata={"x-request-id": "mine"})
    assert dict(await call.initial_metadata())["x-request-id"] == "mine"
    refusal = await refused(client.unary(ask(model="none"), metadata={"x-request-id": "mine"}))
    assert refusal.metadata["x-request-id"] == "mine"


async def test_a_stored_call_is_a_job_that_http_knows(api: Api, client: GrpcClient) -> None:
    answer = await client.answer(ask(store=True, metadata={"made": "here"}))
    job = await api.job(answer["id"])
    assert (job["status"], job["metadata"]) == ("completed", {"made": "here"})
    assert job["result"]["choices"][0]["message"]["content"] == " t007 t008 t009"


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), 2**53 + 1, 0])
async def test_a_seed_reaches_the_engine_exactly(api: Api, client: GrpcClient, seed: int) -> None:
    """As a number, and as a text, the JSON form of protobuf's 64-bit numbers."""
    for said in (str(seed), f'"{seed}"'):
        await client.answer(f'{{"model":"simulated","messages":[{{"role":"user","content":"x"}}],"seed":{said}}}')
        assert api.engine.asked[-1]["seed"] == seed


async def test_fields_of_engines_are_passed_on(api: Api, client: GrpcClient) -> None:
    """Fields of the schema directly, others in `extra_body`; fields that a tenant may not set are dropped."""
    await client.answer(ask(top_k=40, min_p=0.05, extra_body={"mirostat": 2, "deep": {"er": [1, None]}, "priority": 1}))
    asked = api.engine.asked[-1]
    assert (asked["top_k"], asked["min_p"], asked["mirostat"]) == (40, 0.05, 2)
    assert isinstance(asked["top_k"], int)
    assert asked["deep"] == {"er": [1, None]}
    assert "priority" not in asked
    assert "extra_body" not in asked
