"""A whole batch with files in S3-compatible storage, on a real server over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI

from producer.batches.execution import lifecycle
from producer.files.reaper import reap_once
from producer.storage import Storage
from producer.storage.s3 import S3Storage
from tests.producer.api import Api, embedded_api
from tests.support.batches import OVER, assert_each_once, begun, jsonl, line, lines_of, outcome_of, over
from tests.support.s3 import BUCKET, CREDENTIALS, S3
from tests.support.wait_until import wait_until


@pytest.fixture
def url(s3_server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def storage(url: str, s3_server: S3) -> Storage:
    return S3Storage(url, s3_server.url)


@pytest.fixture
async def api(url: str, s3_server: S3) -> AsyncIterator[Api]:
    async with embedded_api(files_url=url, files_endpoint=s3_server.url, batch_window=20) as api:
        yield api


@pytest.fixture
async def client(api: Api) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as client:
        yield client


async def keys(storage: Storage) -> set[str]:
    return {each.key async for each in storage.objects()}


async def test_from_the_upload_to_the_last_object(client: AsyncOpenAI, api: Api, storage: Storage) -> None:
    lines = [line(number, prompt={7: "refuse", 8: "break once"}.get(number)) for number in range(200)]
    first = await over(client, await begun(client, jsonl(lines)))
    output, errors = await outcome_of(client, first)
    assert first.status == "completed"
    assert_each_once(output, [number for number in range(200) if number not in (7, 8)])
    assert {each["custom_id"] for each in errors} == {"line-7", "line-8"}

    answer = await api.post({}, path=f"/v1/batches/{first.id}/retry")
    again = await over(client, await client.batches.retrieve(answer.json["id"]))
    output, errors = await outcome_of(client, again)
    assert {each["custom_id"] for each in output + errors} == {"line-7", "line-8"}

    for file in [each async for each in client.files.list()]:
        await client.files.delete(file.id)
    assert await keys(storage) == set()


async def test_output_is_read_while_it_grows_and_its_objects_are_merged(
    client: AsyncOpenAI, api: Api, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "CHECKPOINT_EVERY", 0.01)
    lines = [line(number, prompt=f"seed={number} itl=20") for number in range(400)]
    batch, read, growing = await begun(client, jsonl(lines)), b"", 0
    while batch.status not in OVER:
        batch = await client.batches.retrieve(batch.id)
        if batch.output_file_id is None:
            continue
        answer = await api.get(f"/v1/files/{batch.output_file_id}/content", Range=f"bytes={len(read)}-")
        assert answer.status in (206, 416), answer.body
        if answer.status == 206:
            assert answer.body.endswith(b"\n")
            read += answer.body
            growing += "x-incomplete" in answer.headers
    assert growing > 5
    assert batch.output_file_id is not None
    whole = (await client.files.content(batch.output_file_id)).content
    assert whole.startswith(read)
    assert_each_once(await lines_of(client, batch.output_file_id), range(400))

    document = await api.context.batches.get("local", batch.id)
    named = {segment.key for segment in document.output.segments}
    assert max(segment.level for segment in document.output.segments) >= 1, "nothing was merged"
    assert named < await keys(storage)
    await reap_once(api.context.files, storage, before=float("inf"))
    assert (await client.files.content(batch.output_file_id)).content == whole


async def test_a_batch_waits_for_an_unavailable_storage(
    client: AsyncOpenAI, api: Api, s3_server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.engine.gate.clear()
    batch = await begun(client, jsonl(map(line, range(50))))
    await wait_until(lambda: api.engine.working, "lines at work")
    s3_server.pause()
    try:
        api.engine.gate.set()
        await wait_until(lambda: asyncio.sleep(0, not api.engine.working), "the engine to be done")
        assert (await client.batches.retrieve(batch.id)).status == "in_progress"
    finally:
        s3_server.resume()
    done = await over(client, batch)
    assert done.status == "completed"
    assert_each_once(await lines_of(client, done.output_file_id), range(50))


async def test_an_interrupted_upload_leaves_no_object(api: Api, storage: Storage) -> None:
    with pytest.raises(openai.BadRequestError):
        async with AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as client:
            await client.files.create(file=("in.txt", b"x" * 1_000_000), purpose="batch")
    assert await keys(storage) == set()
