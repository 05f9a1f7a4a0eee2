"""A repeated request, by an idempotency key or an SDK's retry, creates one batch."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from openai import AsyncOpenAI

from producer.batches.document import Batch
from producer.batches.idempotency import IdempotentBatches, request_name
from producer.batches.repository import OPEN, BatchRepository
from producer.batches.requests import new_batch, parse_batch_request
from shared.errors import BackendUnavailable, IdempotencyKeyReused
from shared.ports import FLEET, Document
from tests.producer.api import Answer, Api, embedded_api, running_api
from tests.support.batches import ENDPOINT, jsonl, line, over

PATH = "/v1/batches"


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Api]:
    async with embedded_api(files_dir=tmp_path, worker=False) as api:
        yield api


@pytest.fixture(params=["embedded", "distributed"])
def api(request: pytest.FixtureRequest) -> Api:
    return request.getfixturevalue({"embedded": "embedded", "distributed": "distributed_api"}[request.param])


async def uploaded(api: Api, data: bytes = jsonl([line(1)])) -> str:
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", data, filename="in.jsonl")
    return (await api.call("POST", "/v1/files", data=form)).json["id"]


def asking(file_id: str, **fields: Any) -> dict[str, Any]:
    return {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h", **fields}


async def batch_ids(api: Api) -> list[str]:
    return [each["id"] for each in (await api.get(PATH)).json["data"]]


async def keyed(api: Api, body: object, key: str = "a-key", **headers: str) -> Answer:
    return await api.post(body, PATH, idempotency_key=key, **headers)


async def test_one_key_creates_one_batch(api: Api) -> None:
    body = asking(await uploaded(api))
    first = await keyed(api, body)
    again = await keyed(api, dict(reversed(body.items())))
    assert (first.status, again.status) == (200, 200)
    assert again.json["id"] == first.json["id"]
    assert (await keyed(api, body, "another")).json["id"] != first.json["id"]
    assert (await api.post(body, PATH)).json["id"] != first.json["id"]
    assert len(await batch_ids(api)) == 3


async def test_a_key_is_for_one_request(api: Api) -> None:
    body = asking(await uploaded(api))
    first = await keyed(api, body)
    refused = await keyed(api, body | {"metadata": {"a": "b"}})
    assert (refused.status, refused.error["code"]) == (422, "idempotency_key_reused")
    assert refused.error["param"] == "Idempotency-Key"
    assert await batch_ids(api) == [first.json["id"]]


async def test_a_hundred_calls_at_two_replicas_create_one_batch(api: Api) -> None:
    body = asking(await uploaded(api))
    async with running_api(api.backend, api.settings, worker=False) as other:
        answers = await asyncio.gather(*(keyed(each, body) for _ in range(50) for each in (api, other)))
    assert {answer.status for answer in answers} == {200}
    (one,) = {answer.json["id"] for answer in answers}
    assert await batch_ids(api) == [one]


async def test_a_bad_key_is_refused(embedded: Api) -> None:
    refused = await keyed(embedded, asking(await uploaded(embedded)), "x" * 256)
    assert (refused.status, refused.error["param"]) == (400, "Idempotency-Key")


async def test_the_batch_is_found_after_its_input_was_deleted(embedded: Api) -> None:
    file_id = await uploaded(embedded)
    first = await keyed(embedded, asking(file_id))
    assert (await embedded.call("DELETE", f"/v1/files/{file_id}")).status == 200
    again = await keyed(embedded, asking(file_id))
    assert (again.status, again.json["id"]) == (200, first.json["id"])


async def test_a_refused_request_does_not_use_up_its_key(embedded: Api) -> None:
    assert (await keyed(embedded, asking("file-0"))).status == 404
    assert (await keyed(embedded, asking(await uploaded(embedded)))).status == 200


async def test_tenants_have_separate_keys(tmp_path: Path) -> None:
    async with embedded_api(
        worker=False, files_dir=tmp_path, api_keys="alice=sk-alice-1-0123456789,bob=sk-bob-12-0123456789"
    ) as api:
        named = IdempotentBatches(api.backend.documents, api.context.batches)
        mine, theirs = [await named.create(a_batch(tenant), a_name()) for tenant in ("alice", "bob")]
        assert (mine.tenant, theirs.tenant) == ("alice", "bob")
        assert mine.id != theirs.id


async def test_retries_with_one_key_create_one_batch(tmp_path: Path) -> None:
    async with embedded_api(files_dir=tmp_path) as api, AsyncOpenAI(base_url=api.url, api_key="none") as client:
        first = await keyed(api, asking(await uploaded(api, jsonl([line(1, prompt="refuse")]))))
        await over(client, await client.batches.retrieve(first.json["id"]))
        path = f"{PATH}/{first.json['id']}/retry"
        retries = [await api.post({}, path, idempotency_key="k") for _ in range(2)]
        assert retries[0].json["retry_of"] == first.json["id"]
        assert retries[1].json["id"] == retries[0].json["id"]


# ── what an SDK sends again ──


async def test_an_sdks_retry_creates_no_second_batch(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer is lost, and openai-python retries."""
    file_id = await uploaded(api)
    create, tries = IdempotentBatches.create, list[str]()

    async def cut_off(self: IdempotentBatches, *args: Any) -> Batch:
        batch = await create(self, *args)
        tries.append(batch.id)
        if len(tries) < 3:
            raise BackendUnavailable("The answer gets lost.", retry_after=1)
        return batch

    monkeypatch.setattr(IdempotentBatches, "create", cut_off)
    async with AsyncOpenAI(base_url=api.url, api_key="none", max_retries=2) as client:
        batch = await client.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h")
    assert await batch_ids(api) == [batch.id]


async def test_the_same_request_as_a_first_try_creates_another_batch(api: Api) -> None:
    body = asking(await uploaded(api))
    first, second = [await api.post(body, PATH, x_stainless_retry_count="0") for _ in range(2)]
    assert first.json["id"] != second.json["id"]
    again = await api.post(body, PATH, x_stainless_retry_count="1")
    assert again.json["id"] == second.json["id"]
    other = await api.post(body | {"metadata": {"a": "b"}}, PATH, x_stainless_retry_count="1")
    assert len(await batch_ids(api)) == 3
    assert other.json["id"] not in (first.json["id"], second.json["id"])


async def test_a_first_try_that_arrives_after_its_retry_creates_no_second_batch(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, documents = asking(await uploaded(api)), api.backend.documents
    put, stalled, go_on = documents.put, asyncio.Event(), asyncio.Event()

    async def slow(document: Document, *, expires_in: float) -> Document:
        if document.kind.startswith("batch-request") and not stalled.is_set():
            stalled.set()
            await go_on.wait()
        return await put(document, expires_in=expires_in)

    monkeypatch.setattr(documents, "put", slow)
    first = asyncio.create_task(api.post(body, PATH, x_stainless_retry_count="0"))
    await stalled.wait()
    second = await api.post(body, PATH, x_stainless_retry_count="1")
    go_on.set()
    assert (await first).json["id"] == second.json["id"]
    assert await batch_ids(api) == [second.json["id"]]


# ── who dies ──


def a_batch(tenant: str = "local") -> Batch:
    return new_batch(
        tenant,
        parse_batch_request({"input_file_id": "f", "endpoint": ENDPOINT, "completion_window": "24h"}),
    )


def a_name(body: bytes = b"{}") -> Any:
    return request_name({"Idempotency-Key": "k"}, body, orjson.loads(body), call="batch")


class Dying(BatchRepository):
    """Dies after the name was stored and before the batch is written."""

    async def create(self, batch: Batch) -> None:
        raise BackendUnavailable("killed")


async def test_the_batch_of_a_process_that_died_is_created_by_the_retry(api: Api) -> None:
    documents, batches = api.backend.documents, api.context.batches
    doomed = a_batch()
    with pytest.raises(BackendUnavailable, match="killed"):
        await IdempotentBatches(documents, Dying(documents, 60)).create(doomed, a_name())
    assert await batches.find("local", doomed.id) is None
    named = IdempotentBatches(documents, batches)
    with pytest.raises(IdempotencyKeyReused):
        await named.find("local", a_name(b"[]"))
    heirs = await asyncio.gather(*(named.create(a_batch(), a_name()) for _ in range(20)))
    assert {heir.id for heir in heirs} == {doomed.id}
    found = await named.find("local", a_name())
    assert found is not None and found.id == doomed.id


async def test_an_expired_name_without_a_batch_is_replaced(embedded: Api) -> None:
    documents, batches = embedded.backend.documents, embedded.context.batches
    await embedded.context.health.close()  # No runner takes it meanwhile.
    named, batch = IdempotentBatches(documents, batches), a_batch()
    await named.create(batch, a_name())
    await batches.close(batch.id)
    assert await documents.get(OPEN, FLEET, batch.id) is None
    await named.find("local", a_name())
    assert await documents.get(OPEN, FLEET, batch.id) is not None
