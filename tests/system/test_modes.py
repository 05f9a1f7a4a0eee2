"""All kinds of calls get the same answer from an upstream, whatever its dialect."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from tests.producer.api import Api
from tests.support.batches import jsonl
from tests.support.raw_upstream import Call, ask, upstream_api
from tests.support.wait_until import wait_until
from tests.worker.engines.openai.accents import ACCENTS, Accent
from worker.stream.fold import fold

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = [*ACCENTS]
AT_ONCE = 8


async def speak(call: Call) -> None:
    """`dialect 7`: answers in that dialect. `cut 7`: the first time only half of it, then a reset."""
    kind, _, number = call.prompt.partition(" ")
    body = ACCENTS[NAMES[int(number)]].body
    if kind == "accent" or call.time_asked > 1:
        await call.answer(body)
        return
    await call.head(Transfer_Encoding="chunked")
    await call.chunk(body[: len(body) // 2])
    await asyncio.sleep(0.01)  # The kernel drops what has not been read when a connection is reset.
    call.abort()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Api]:
    files: Path = tmp_path_factory.mktemp("files")
    async with upstream_api(speak, files_dir=files) as (api, _):
        yield api


def said(completion: dict[str, Any]) -> tuple[dict[str, Any], str]:
    (choice,) = completion["choices"]
    message = {key: value for key, value in choice["message"].items() if value is not None or key == "content"}
    return message, choice["finish_reason"]


def due(accent: Accent) -> tuple[dict[str, Any], str]:
    return {"role": "assistant", **accent.message}, accent.finish


async def streamed(api: Api, prompt: str, **fields: Any) -> dict[str, Any]:
    answer = await api.post(ask(prompt, stream=True, **fields))
    assert not any("error" in each for each in answer.frames), answer.frames
    return fold(answer.frames)


async def unary(api: Api, prompt: str) -> dict[str, Any]:
    return (await api.post(ask(prompt))).json


async def flex(api: Api, prompt: str) -> dict[str, Any]:
    return (await api.post(ask(prompt, service_tier="flex"))).json


async def background(api: Api, prompt: str) -> dict[str, Any]:
    answer = await api.post(ask(prompt), prefer="respond-async")
    assert answer.status == 202
    return (await api.ended(answer.json["id"]))["result"]


async def stored(api: Api, prompt: str) -> dict[str, Any]:
    answer = (await api.post(ask(prompt, store=True))).json
    kept = (await api.get(f"/v1/chat/completions/{answer['id']}")).json
    assert said(kept) == said(answer)
    return kept


async def repeated(api: Api, prompt: str) -> dict[str, Any]:
    first, second = [await api.post(ask(prompt), idempotency_key=f"key of {prompt}") for _ in range(2)]
    assert first.body == second.body
    return second.json


async def repeated_stream(api: Api, prompt: str) -> dict[str, Any]:
    """The first call follows the worker; the second one reads the log."""
    body, key = ask(prompt, stream=True), f"key of stream of {prompt}"
    first, second = [await api.post(body, idempotency_key=key) for _ in range(2)]
    assert first.body == second.body
    return fold(second.frames)


async def every_accent(api: Api, mode: Any, kind: str = "accent") -> dict[str, Any]:
    """Returns each dialect's answer by name."""
    found: dict[str, Any] = {}
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, name: str) -> None:
        async with turns:
            found[name] = said(await mode(api, f"{kind} {number}"))

    async with asyncio.TaskGroup() as group:
        for number, name in enumerate(NAMES):
            group.create_task(one(number, name))
    return found


@pytest.mark.parametrize("mode", [streamed, unary, background, flex, stored, repeated, repeated_stream])
async def test_all_kinds_of_calls_get_the_same_answer(api: Api, mode: Any) -> None:
    assert await every_accent(api, mode) == {name: due(accent) for name, accent in ACCENTS.items()}


async def test_a_batch_gets_the_same_answers(api: Api) -> None:
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": ask(f"accent {number}")}
        for number, name in enumerate(NAMES)
    ]
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", jsonl(lines), filename="in.jsonl")
    file = (await api.call("POST", "/v1/files", data=form)).json["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = (await api.post(asked, path="/v1/batches")).json

    async def over() -> Any:
        found = (await api.get(f"/v1/batches/{batch['id']}")).json
        assert found["status"] in ("completed", "failed"), found
        return found

    done = await wait_until(over, "the batch to be over")
    output = await api.get(f"/v1/files/{done['output_file_id']}/content")
    answers = [orjson.loads(each) for each in output.body.splitlines()]
    found = {each["custom_id"]: said(each["response"]["body"]) for each in answers}
    assert found == {name: due(accent) for name, accent in ACCENTS.items()}


async def broken(api: Api, prompt: str) -> dict[str, Any]:
    """Returns the stream and the result of a job with two attempts."""
    answer = await streamed(api, prompt)
    kept = (await api.get(f"/v1/jobs/{answer['id']}/result")).json
    assert said(kept) == said(answer)
    return kept


async def test_an_interrupted_stream_continues_without_contradiction(api: Api) -> None:
    found = await every_accent(api, broken, "cut")

    expected = {name: due(accent) for name, accent in ACCENTS.items()}
    expected["content after the end"] = ({"role": "assistant", "content": "Hel"}, "stop")  # it broke after its end
    assert found == expected
