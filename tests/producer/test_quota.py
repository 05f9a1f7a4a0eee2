"""A tenant above its storage limit is refused; other tenants are unaffected."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from shared.backends.distributed import open_distributed
from shared.errors import StorageQuotaExceeded
from shared.quota import LOG_ROOM
from tests.contract.performers import new_job
from tests.producer.api import Answer, Api, ask, embedded_api
from tests.support.redis import Redis
from tests.support.wait_until import wait_until

LIMIT = 1_000_000
ALICE, BOB = ({"authorization": f"Bearer {name}-0123456789abcdef"} for name in ("alice", "bob"))


@pytest.fixture
async def small() -> AsyncIterator[Api]:
    async with embedded_api(
        worker=False, api_keys="alice=alice-0123456789abcdef,bob=bob-0123456789abcdef", tenant_store_limit=LIMIT
    ) as api:
        yield api


def assert_full(answer: Answer) -> None:
    error = answer.error
    assert (answer.status, error["type"], error["code"]) == (429, "rate_limit_error", "storage_quota_exceeded")
    assert "1,000,000" in error["message"]
    assert "tenant_store_limit" in error["message"]
    assert int(answer.headers["retry-after"]) >= 1


async def test_large_requests_above_the_tenants_limit_are_refused(small: Api) -> None:
    large = ask("x" * 200_000, background=True)
    answers = [await small.post(large, **ALICE) for _ in range(13)]
    taken = [answer for answer in answers if answer.status == 202]
    assert 3 <= len(taken) <= 4
    for answer in answers[len(taken) :]:
        assert_full(answer)
    assert_full(await small.post(large | {"background": False, "stream": True}, **ALICE))
    assert (await small.post(large, **BOB)).status == 202
    assert len((await small.get("/v1/jobs", **ALICE)).json["data"]) == len(taken), "what was refused is not there"

    await small.call("DELETE", f"/v1/jobs/{taken[0].json['id']}", headers=ALICE)
    assert (await small.post(large, **ALICE)).status == 202


async def test_a_stream_above_its_tenants_limit_ends_with_an_error(small: Api) -> None:
    async with small.worker():
        stream = await small.post(ask(stream=True, max_tokens=20_000), **ALICE)
        assert stream.frames[-1]["error"]["code"] == "storage_quota_exceeded"
        frame = 512  # A stream whose next frame does not fit ends before its room does.
        assert LOG_ROOM - frame < len(stream.body) < LIMIT
        assert (await small.post(ask(), **BOB)).status == 200
        job = (await small.get(f"/v1/jobs/{stream.headers['x-job-id']}", **ALICE)).json
        assert (job["status"], job["attempts"]) == ("failed", 1)


async def test_the_default_limit_is_a_share_of_the_stores_memory(
    amqp_url: str, redis_url: str, redis_server: Redis
) -> None:
    with redis_server.configured("maxmemory", "60mb", "0"):
        async with open_distributed(amqp_url, redis_url) as backend:
            made = 0
            with pytest.raises(StorageQuotaExceeded):
                while made < 13:
                    await backend.store.create(new_job(), body=b"x" * 5_000_000)
                    made += 1
    assert made == 3


async def test_a_batch_waits_for_room(small: Api) -> None:
    """The lines do not fail; they wait until stored data expires."""
    filler = await small.post(ask("x" * 950_000, background=True), **ALICE)
    assert filler.status == 202
    line = '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "simulated",'
    line += ' "messages": [{"role": "user", "content": "seed=7"}]}}'
    uploaded = await upload(small, line.encode())
    asked = {"input_file_id": uploaded, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = (await small.post(asked, "/v1/batches", **ALICE)).json["id"]

    async def is_over() -> bool:
        found = (await small.get(f"/v1/batches/{batch}", **ALICE)).json
        return found["status"] == "completed" and found["request_counts"]["completed"] == 1

    await wait_until(lambda: is_in_progress(small, batch), "the batch to be begun")
    assert not await is_over()
    await small.call("DELETE", f"/v1/jobs/{filler.json['id']}", headers=ALICE)
    async with small.worker():
        await wait_until(is_over, "the batch to be over")


async def is_in_progress(api: Api, batch: str) -> bool:
    return (await api.get(f"/v1/batches/{batch}", **ALICE)).json["status"] == "in_progress"


async def upload(api: Api, content: bytes) -> str:
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", content, filename="in.jsonl")
    return (await api.call("POST", "/v1/files", data=form, headers=ALICE)).json["id"]
