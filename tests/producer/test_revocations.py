"""A revoked key's calls end within seconds on every replica; its jobs run on, or are cancelled on request."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import orjson
import pytest

from producer.auth import revocations
from producer.auth.keys import KeyRepository
from shared.backends.distributed import open_distributed
from shared.backends.embedded.backend import open_embedded
from shared.settings import Settings
from tests.producer.api import MODEL, Answer, Api, ask, embedded_api, running_api, settings_for_tests
from tests.producer.test_keys import is_refused, stored_key
from tests.support.grpc_client import grpc_client, refused
from tests.support.wait_until import wait_until

ENDLESS = ask("itl=20", max_tokens=100_000)
KEYS = "root=secret-of-root-4711"


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "CHECK_EVERY", 0.1)


@pytest.fixture(params=["embedded", "distributed"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    names = ("amqp_url", "redis_url") if request.param == "distributed" else ()
    urls = {name: request.getfixturevalue(name) for name in names}
    return settings_for_tests(api_keys=KEYS, grpc=True, files_dir=tmp_path, models=MODEL, **urls)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    opened = (
        open_distributed(settings.amqp_url, settings.redis_url)
        if settings.amqp_url and settings.redis_url
        else open_embedded(None)
    )
    async with opened as backend, running_api(backend, settings) as api:
        yield api


async def open_calls(api: Api, key: dict[str, str]) -> tuple[str, list[asyncio.Task[Answer]]]:
    """A running job, and open calls of each kind."""
    job = await api.submit(ENDLESS, **key)
    await wait_until(lambda: api.engine.working == 1)
    calls = [
        api.post(ENDLESS | {"stream": True}, **key),
        api.post(ENDLESS, **key),
        api.get(f"/v1/jobs/{job}?wait=300", **key),
        api.post(ENDLESS | {"background": True}, prefer="wait=300", **key),
    ]
    tasks = [asyncio.create_task(call) for call in calls]
    await wait_until(lambda: api.engine.working == 4)
    return job, tasks


async def test_open_calls_end_and_jobs_run_on(api: Api) -> None:
    alice, other = await stored_key(api, "alice"), await stored_key(api, "alice-2", tenant="alice")
    job, calls = await open_calls(api, alice)
    mine = asyncio.create_task(api.get(f"/v1/jobs/{job}?wait=300", **other))
    async with grpc_client(api.grpc_address) as client:
        unary = asyncio.create_task(refused(client.unary(ENDLESS, metadata=alice)))
        stream = asyncio.create_task(refused(client.stream(ENDLESS, metadata=alice)))
        await wait_until(lambda: api.engine.working == 6)
        await KeyRepository(api.backend.documents).revoke("alice")

        streamed, *answers = await asyncio.gather(*calls)
        assert streamed.frames[-1]["error"]["code"] == "invalid_api_key"
        assert [(answer.status, answer.error["code"]) for answer in answers] == [(401, "invalid_api_key")] * 3
        for refusal in await asyncio.gather(unary, stream):
            assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
    await wait_until(lambda: is_refused(api, alice), "the key to be refused")
    assert not mine.done(), "another key of the tenant is not concerned"
    assert api.engine.working == 6
    await cancel_all(api, other)
    assert (await mine).json["status"] == "cancelled"


async def test_a_stream_of_events_ends(api: Api) -> None:
    alice = await stored_key(api, "alice")
    job = await api.submit(ENDLESS, **alice)
    async with api.http.get(f"/v1/jobs/{job}/events", headers=alice) as events:
        assert await events.content.readline()
        await KeyRepository(api.backend.documents).revoke("alice")
        *_, error, done, end = (await events.content.read()).split(b"\n\n")
    assert orjson.loads(error.removeprefix(b"data: "))["error"]["code"] == "invalid_api_key"
    assert (done, end) == (b"data: [DONE]", b"")
    assert api.engine.working == 1, "the job runs on"
    await cancel_all(api, await stored_key(api, "alice-2", tenant="alice"))


async def test_a_resumed_response_ends_with_an_error(api: Api) -> None:
    alice = await stored_key(api, "alice")
    request = {"model": MODEL, "input": "itl=20", "max_output_tokens": 100_000, "background": True}
    response = (await api.post(request, "/v1/responses", **alice)).json["id"]
    async with api.http.get(f"/v1/responses/{response}?stream=true", headers=alice) as events:
        assert await events.content.readline()
        await KeyRepository(api.backend.documents).revoke("alice", cancel_jobs=True)
        kind, data = (await events.content.read()).strip().split(b"\n\n")[-1].split(b"\n")
    assert kind == b"event: error"
    assert orjson.loads(data.removeprefix(b"data: "))["code"] == "invalid_api_key"
    await wait_until(lambda: not api.engine.working)


async def test_jobs_and_batches_are_cancelled_on_request(api: Api) -> None:
    alice, other = await stored_key(api, "alice"), await stored_key(api, "alice-2", tenant="alice")
    running = await api.submit(ENDLESS, **alice)
    others = await api.submit(ENDLESS, **other)
    batch = await a_batch(api, alice)
    await wait_until(lambda: api.engine.working >= 3)
    await KeyRepository(api.backend.documents).revoke("alice", cancel_jobs=True)

    async def statuses() -> list[str]:
        paths = (f"/v1/jobs/{running}", f"/v1/batches/{batch}", f"/v1/jobs/{others}")
        return [(await api.get(path, **other)).json["status"] for path in paths]

    await wait_until(
        lambda: are(statuses(), ["cancelled", "cancelled", "in_progress"]), "the key's jobs alone to be cancelled"
    )
    await api.call("POST", f"/v1/jobs/{others}/cancel", headers=other)


async def cancel_all(api: Api, key: dict[str, str]) -> None:
    for each in (await api.get("/v1/jobs?status=in_progress", **key)).json["data"]:
        await api.call("POST", f"/v1/jobs/{each['id']}/cancel", headers=key)


async def are(actual: Any, expected: list[str]) -> bool:
    return await actual == expected


async def a_batch(api: Api, key: dict[str, str]) -> str:

    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": ENDLESS}
    form = aiohttp.FormData({"purpose": "batch"}, default_to_multipart=True)
    form.add_field("file", orjson.dumps(line), filename="a.jsonl")
    file_id = (await api.call("POST", "/v1/files", data=form, headers=key)).json["id"]
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return (await api.post(body, "/v1/batches", **key)).json["id"]


async def test_a_server_that_starts_later_cancels_them_too(tmp_path: Path) -> None:
    async with embedded_api(api_keys=KEYS, worker=False) as api:
        alice = await stored_key(api, "alice")
        job = await api.submit(ask(), **alice)
        await KeyRepository(api.backend.documents).revoke("alice", cancel_jobs=True)
        async with running_api(api.backend, settings_for_tests(api_keys=KEYS), worker=False) as later:
            other = await stored_key(later, "alice-2", tenant="alice")
            await wait_until(lambda: is_cancelled(later, job, other), "the job to be cancelled")


async def is_cancelled(api: Api, job: str, key: dict[str, str]) -> bool:
    return (await api.get(f"/v1/jobs/{job}", **key)).json["status"] == "cancelled"
