"""The exact bytes of SSE, because some clients cannot parse everything that the standard allows."""

import re
from collections.abc import AsyncIterator

import pytest

from tests.producer.api import Answer, Api, ask, embedded_api

STREAM = "/v1/chat/completions/stream"
USAGE = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}


@pytest.fixture
async def answer(api: Api) -> Answer:
    return await api.post(ask(stream=True, n=2))


@pytest.fixture
async def breaking() -> AsyncIterator[Answer]:
    async with embedded_api() as api:
        yield await api.post(ask("seed=7 break", stream=True))


def deltas(answer: Answer, index: int = 0) -> list[tuple[dict[str, str], str | None]]:
    choices = [choice for frame in answer.frames for choice in frame["choices"] if choice["index"] == index]
    return [(choice["delta"], choice["finish_reason"]) for choice in choices]


async def test_a_stream_is_data_lines_and_blank_lines(answer: Answer) -> None:
    assert re.fullmatch(rb"(data: \{[^\n]+\}\n\n)+data: \[DONE\]\n\n", answer.body)


@pytest.mark.parametrize("index", [0, 1])
async def test_a_choice_is_a_role_then_texts_then_a_finish(answer: Answer, index: int) -> None:
    words = [f" t{number:03d}" for number in range(7 + index, 10 + index)]
    expected = [({"role": "assistant", "content": ""}, None), *(({"content": word}, None) for word in words)]
    assert deltas(answer, index) == [*expected, ({}, "stop")]


async def test_all_chunks_share_their_head(answer: Answer) -> None:
    heads = [{key: value for key, value in frame.items() if key != "choices"} for frame in answer.frames]
    assert heads == [heads[0]] * len(heads)
    assert heads[0].pop("created") > 0
    assert heads[0] == {
        "id": answer.headers["x-job-id"],
        "model": "simulated",
        "service_tier": "default",
        "object": "chat.completion.chunk",
    }


async def test_headers_forbid_buffering(answer: Answer) -> None:
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in answer.headers


async def test_requested_usage_comes_last(api: Api) -> None:
    *others, last = (await api.post(ask(stream=True, stream_options={"include_usage": True}))).frames
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert all(frame["usage"] is None for frame in others)


async def test_there_is_no_usage_without_a_request_for_it(answer: Answer) -> None:
    assert not any("usage" in frame for frame in answer.frames)


@pytest.mark.parametrize("stream", [None, False, True])
async def test_the_stream_path_always_streams(api: Api, stream: bool | None) -> None:
    answer = await api.post(ask(stream=stream, stream_options={"include_usage": True}), STREAM)
    assert answer.text == " t007 t008 t009"


async def test_the_response_ends_at_once_and_the_connection_stays_open(api: Api) -> None:
    for _ in range(3):
        assert (await api.post(ask(stream=True))).text == " t007 t008 t009"
    assert len(api.server.server_state.connections) == 1


async def test_an_engines_refusal_has_a_4xx_status(api: Api) -> None:
    answer = await api.post(ask("refuse", stream=True))
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"


async def test_a_failure_during_a_stream_is_an_error_frame_then_done(breaking: Answer) -> None:
    *words, error = breaking.frames
    assert breaking.status == 200
    assert [word["choices"][0]["delta"].get("content") for word in words] == ["", " t007"]
    assert set(error) == {"error"}
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert error["error"]["code"] == "attempts_exhausted"


async def test_long_answers_are_complete(api: Api) -> None:
    answer = await api.post(ask("seed=0", stream=True, max_tokens=5000))
    assert answer.text == "".join(f" t{number % 1000:03d}" for number in range(5000))
