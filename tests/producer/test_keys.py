"""A key is a tenant."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.producer.api import Api, ask, embedded_api

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALICE = {"authorization": "Bearer secret-alice"}
BOB = {"authorization": "bearer  secret-bob"}
STRANGERS = (None, "", "Bearer", "Bearer ", "Bearer wrong-key", "Basic secret-alice", "secret-alice", "Bearer ü")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed_api() -> AsyncIterator[Api]:
    async with embedded_api(api_keys="alice=secret-alice,bob=secret-bob") as api:
        yield api


@pytest.mark.parametrize("authorization", STRANGERS)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/jobs/chatcmpl-1", "/metrics", "/nowhere"])
async def test_no_entry_without_a_key(keyed_api: Api, authorization: str | None, path: str) -> None:
    answer = await keyed_api.get(path, **({} if authorization is None else {"authorization": authorization}))
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("key", [ALICE, BOB])
async def test_a_key_opens(keyed_api: Api, key: dict[str, str]) -> None:
    assert (await keyed_api.post(ask(), **key)).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json"])
async def test_what_operators_and_readers_need_is_open(keyed_api: Api, path: str) -> None:
    assert (await keyed_api.get(path)).status == 200


@pytest.mark.parametrize("path", ["", "/result", "/events", "/cancel"])
async def test_another_tenants_job_is_not_there(keyed_api: Api, path: str) -> None:
    job_id = await keyed_api.submit(ask(), **ALICE)
    method = "POST" if path == "/cancel" else "GET"
    answer = await keyed_api.call(method, f"/v1/jobs/{job_id}{path}", headers=BOB)
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert (await keyed_api.get(f"/v1/jobs/{job_id}", **ALICE)).status == 200


async def test_lists_hold_ones_own(keyed_api: Api) -> None:
    mine, others = await keyed_api.submit(ask(), **ALICE), await keyed_api.submit(ask(), **BOB)
    page = (await keyed_api.get("/v1/jobs", **ALICE)).json
    listed = {job["id"] for job in page["data"]}
    assert mine in listed
    assert others not in listed


async def test_a_browser_can_read_that_it_lacks_a_key(keyed_api: Api) -> None:
    answer = await keyed_api.post(ask(), origin="https://app.example")
    assert answer.status == 401
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_a_browser_may_ask_before_it_sends_its_key(keyed_api: Api) -> None:
    asking = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    answer = await keyed_api.call("OPTIONS", "/v1/chat/completions", headers=asking)
    assert answer.status == 200
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
