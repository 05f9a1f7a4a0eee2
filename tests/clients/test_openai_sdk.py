"""Calls as OpenAI's users write them."""

import asyncio
from collections.abc import Iterable

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionUserMessageParam
from openai.types.model import Model

from tests.clients.conftest import open_client
from tests.clients.published import fits
from tests.producer.api import MODEL, Api, embedded_api
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = " t007 t008 t009"


def says(text: str) -> list[ChatCompletionUserMessageParam]:
    return [{"role": "user", "content": text}]


def text_of(chunks: Iterable[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


async def test_create(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model=MODEL, messages=says("seed=7"))
    assert completion.choices[0].message.content == WORDS
    assert completion.usage
    assert completion.usage.completion_tokens == 3
    fits(ChatCompletion, completion)


async def test_stream(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=says("seed=7"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert text_of(chunks) == WORDS
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 4
    for chunk in chunks:
        fits(ChatCompletionChunk, chunk)


async def test_stream_helper_folds_the_completion(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model=MODEL, messages=says("seed=7"), n=2) as stream:
        kinds = {event.type async for event in stream}
        completion = await stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert [choice.message.content for choice in completion.choices] == [WORDS, " t008 t009 t010"]


async def test_sync_client(sync_client: OpenAI) -> None:
    def both() -> tuple[str | None, str]:
        create = sync_client.chat.completions.create
        with create(model=MODEL, messages=says("seed=7"), stream=True) as stream:
            streamed = text_of(stream)
        return create(model=MODEL, messages=says("seed=7")).choices[0].message.content, streamed

    assert await asyncio.to_thread(both) == (WORDS, WORDS)


async def test_with_raw_response(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=says("seed=7"), extra_headers={"x-request-id": "mine"}
    )
    completion = raw.parse()
    assert raw.request_id == "mine"
    assert raw.headers["x-job-id"] == completion.id
    assert completion.choices[0].message.content == WORDS


async def test_with_streaming_response(client: AsyncOpenAI) -> None:
    async with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=says("seed=7"), stream=True
    ) as response:
        lines = [line async for line in response.iter_lines() if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert len(lines) == 6
    assert lines[-1] == "data: [DONE]"


async def test_a_job_by_raw_response(client: AsyncOpenAI, api: Api) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=says("seed=7"), extra_headers={"Prefer": "respond-async"}
    )
    assert raw.status_code == 202
    job = await api.ended(raw.headers["location"].removeprefix("/v1/jobs/"))
    fits(ChatCompletion, ChatCompletion.model_validate(job["result"]))


async def test_models(client: AsyncOpenAI) -> None:
    (model,) = [model async for model in client.models.list()]
    assert model.id == MODEL
    assert await client.models.retrieve(MODEL) == model
    fits(Model, model)


# ── errors ──


async def test_a_bad_request(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        await client.chat.completions.create(model=MODEL, messages=[])
    assert (error.value.param, error.value.code, error.value.type) == (
        "messages",
        "invalid_value",
        "invalid_request_error",
    )
    assert error.value.request_id


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_engine_refuses_is_a_bad_request(client: AsyncOpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="too long"):
        await client.chat.completions.create(model=MODEL, messages=says("refuse"), stream=stream)


async def test_an_unknown_model(client: AsyncOpenAI) -> None:
    for call in (client.models.retrieve("x"), client.chat.completions.create(model="x", messages=says("hi"))):
        with pytest.raises(openai.NotFoundError) as error:
            await call
        assert error.value.code == "model_not_found"


async def test_a_wrong_key() -> None:
    async with embedded_api(api_keys="alice=secret-of-alice-4711") as api:
        with pytest.raises(openai.AuthenticationError):
            async with open_client(api) as client:
                await client.models.list()
        async with open_client(api, "secret-of-alice-4711") as client:
            assert (await client.models.list()).data


async def test_a_full_queue() -> None:
    async with embedded_api(worker=False, queue_limit=1) as api, open_client(api) as client:
        await api.submit({"model": MODEL, "messages": says("hi")})
        with pytest.raises(openai.RateLimitError) as error:
            await client.chat.completions.create(model=MODEL, messages=says("hi"))
    assert error.value.code == "queue_full"
    assert int(error.value.response.headers["retry-after"]) >= 1


async def test_an_engine_that_breaks(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=says("break"), stream=True)
    with pytest.raises(openai.APIError) as error:
        async for _ in stream:
            pass
    assert error.value.code == "attempts_exhausted"


async def test_a_job_cancelled_from_elsewhere(client: AsyncOpenAI, api: Api) -> None:
    call = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=says("ttft=60000")))
    (job,) = await wait_until(lambda: api.jobs("status=in_progress"), "the job")
    await api.call("POST", job["urls"]["cancel"])
    with pytest.raises(openai.ConflictError):
        await call


# ── leaving ──


async def engine_works(api: Api) -> None:
    await wait_until(lambda: api.engine.working, "the engine to work")


async def engine_rests(api: Api) -> None:
    await wait_until(lambda: not api.engine.working, "the engine to hear of it")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_clients_patience_is_the_jobs_deadline(client: AsyncOpenAI, api: Api, stream: bool) -> None:
    for patience in (0.5, 2.0, 10.0):  # How long it takes until the engine works is the machine's affair.
        asked = len(api.engine.asked)
        with pytest.raises(openai.APIError):
            answer = await client.chat.completions.create(
                model=MODEL, messages=says("ttft=60000"), stream=stream, timeout=patience
            )
            async for _ in answer:
                pass
        if len(api.engine.asked) > asked:
            break
    await engine_rests(api)
    job = (await api.jobs())[0]
    assert (await api.ended(job["id"]))["status"] in ("expired", "cancelled")


async def test_closing_a_stream_stops_the_engine(client: AsyncOpenAI, api: Api) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=says("itl=20"), max_tokens=10_000, stream=True)
    await anext(aiter(stream))
    await engine_works(api)
    await stream.close()
    await engine_rests(api)


async def test_breaking_off_a_sync_stream_stops_the_engine(sync_client: OpenAI, api: Api) -> None:
    def read_one() -> None:
        with sync_client.chat.completions.create(
            model=MODEL, messages=says("itl=20"), max_tokens=10_000, stream=True
        ) as stream:
            next(iter(stream))

    await asyncio.to_thread(read_one)
    await engine_rests(api)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_task_stops_the_engine(client: AsyncOpenAI, api: Api, stream: bool) -> None:
    """As Ctrl-C does."""

    async def call() -> None:
        answer = await client.chat.completions.create(
            model=MODEL, messages=says("itl=20"), max_tokens=10_000, stream=stream
        )
        async for _ in answer:
            pass

    calling = asyncio.create_task(call())
    await engine_works(api)
    calling.cancel()
    await engine_rests(api)


# ── together ──


async def test_fifty_streams_at_once_do_not_mix(client: AsyncOpenAI) -> None:
    async def stream(seed: int) -> str:
        answer = await client.chat.completions.create(
            model=MODEL, messages=says(f"seed={seed} itl=1"), max_tokens=50, stream=True
        )
        return text_of([chunk async for chunk in answer])

    texts = await asyncio.gather(*(stream(seed * 10) for seed in range(50)))
    assert texts == ["".join(f" t{(seed * 10 + at) % 1000:03d}" for at in range(50)) for seed in range(50)]
