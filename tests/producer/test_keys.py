"""A key is a tenant."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from ignite.api_process import require_keys
from producer.auth.failed_attempts import BURST
from producer.auth.keys import KeyRepository
from producer.http.connection import limits
from shared.backends.distributed import open_distributed
from shared.backends.embedded.backend import open_embedded
from shared.limits import Limits
from shared.settings import SettingsError
from tests.producer.api import MODEL, Api, ask, embedded_api, running_api, settings_for_tests
from tests.support.grpc_client import grpc_client, refused
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALICE = {"authorization": "Bearer secret-of-alice-4711"}
BOB = {"authorization": "bearer  secret-of-bob-4711"}
STRANGERS = (
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer wrong-key",
    "Basic secret-of-alice-4711",
    "secret-of-alice-4711",
    "Bearer ü",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed_api() -> AsyncIterator[Api]:
    async with embedded_api(api_keys="alice=secret-of-alice-4711,bob=secret-of-bob-4711") as api:
        yield api


@pytest.mark.parametrize("authorization", STRANGERS)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/jobs/chatcmpl-1", "/metrics", "/nowhere"])
async def test_calls_without_a_key_are_401(keyed_api: Api, authorization: str | None, path: str) -> None:
    answer = await keyed_api.get(path, **({} if authorization is None else {"authorization": authorization}))
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("key", [ALICE, BOB])
async def test_a_key_is_accepted(keyed_api: Api, key: dict[str, str]) -> None:
    assert (await keyed_api.post(ask(), **key)).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json"])
async def test_open_paths_need_no_key(keyed_api: Api, path: str) -> None:
    assert (await keyed_api.get(path)).status == 200


@pytest.mark.parametrize("path", ["", "/result", "/events", "/cancel"])
async def test_another_tenants_job_is_404(keyed_api: Api, path: str) -> None:
    job_id = await keyed_api.submit(ask(), **ALICE)
    method = "POST" if path == "/cancel" else "GET"
    answer = await keyed_api.call(method, f"/v1/jobs/{job_id}{path}", headers=BOB)
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert (await keyed_api.get(f"/v1/jobs/{job_id}", **ALICE)).status == 200


async def test_lists_show_the_tenants_own_jobs(keyed_api: Api) -> None:
    mine, others = await keyed_api.submit(ask(), **ALICE), await keyed_api.submit(ask(), **BOB)
    page = (await keyed_api.get("/v1/jobs", **ALICE)).json
    listed = {job["id"] for job in page["data"]}
    assert mine in listed
    assert others not in listed


async def test_a_browser_can_read_a_401(keyed_api: Api) -> None:
    answer = await keyed_api.post(ask(), origin="https://app.example")
    assert answer.status == 401
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_a_preflight_without_a_key_is_answered(keyed_api: Api) -> None:
    asking = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    answer = await keyed_api.call("OPTIONS", "/v1/chat/completions", headers=asking)
    assert answer.status == 200
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()


# ── stored keys ──


async def stored_key(api: Api, name: str, **options: object) -> dict[str, str]:
    secret, _ = await KeyRepository(api.backend.documents).create(name, **options)
    return {"authorization": f"Bearer {secret}"}


async def test_a_stored_key_works_beside_the_others(keyed_api: Api) -> None:
    carol = await stored_key(keyed_api, "carol")
    job = await keyed_api.submit(ask(), **carol)
    assert (await keyed_api.get(f"/v1/jobs/{job}", **carol)).status == 200
    assert (await keyed_api.get(f"/v1/jobs/{job}", **ALICE)).status == 404


async def test_keys_of_one_tenant_see_the_same_jobs(keyed_api: Api) -> None:
    job = await keyed_api.submit(ask(), **ALICE)
    rotated = await stored_key(keyed_api, "alice-2026", tenant="alice")
    assert (await keyed_api.get(f"/v1/jobs/{job}", **rotated)).status == 200


async def test_a_key_may_be_limited_to_models(keyed_api: Api) -> None:
    allowed = await stored_key(keyed_api, "dora", limits=Limits(models=(MODEL,)))
    other = await stored_key(keyed_api, "ed", limits=Limits(models=("other",)))
    assert (await keyed_api.post(ask(), **allowed)).status == 200
    assert [model["id"] for model in (await keyed_api.get("/v1/models", **allowed)).json["data"]] == [MODEL]
    assert (await keyed_api.get("/v1/models", **other)).json["data"] == []
    for answer in (
        await keyed_api.post(ask(), **other),
        await keyed_api.post(ask(background=True), **other),
        await keyed_api.get(f"/v1/models/{MODEL}", **other),
    ):
        assert answer.status == 404, "as for a model that is not there"
        assert answer.error == (await keyed_api.post(ask(model="gone"), **other)).error | {
            "message": f"The model '{MODEL}' does not exist."
        }


async def test_metrics_need_an_operators_key_or_the_metrics_key() -> None:
    metrics = {"authorization": "Bearer a-key-for-metrics-alone"}
    async with embedded_api(metrics_key="a-key-for-metrics-alone", api_keys="alice=secret-of-alice-4711") as api:
        operator = await stored_key(api, "ops", operator=True)
        for key in (ALICE, await stored_key(api, "carol")):
            answer = await api.get("/metrics", **key)
            assert (answer.status, answer.error["code"]) == (403, "permission_denied")
        for key in (operator, metrics):
            assert "ignite_asyncio_tasks" in (await api.get("/metrics", **key)).body.decode()
        for path in ("/v1/models", "/v1/jobs", "/v1/queues", "/metrics/"):
            assert (await api.get(path, **metrics)).status == 401
        assert (await api.call("POST", "/metrics", headers=metrics)).status == 405


async def test_a_revoked_key_is_refused_on_every_replica(amqp_url: str, redis_url: str) -> None:
    settings = settings_for_tests(amqp_url=amqp_url, redis_url=redis_url, api_keys="root=secret-of-root-4711")
    async with (
        open_distributed(amqp_url, redis_url) as one,
        open_distributed(amqp_url, redis_url) as other,
        running_api(one, settings, worker=False) as first,
        running_api(other, settings, worker=False) as second,
    ):
        key = await stored_key(first, "alice")
        for api in (first, second):
            assert (await api.get("/v1/jobs", **key)).status == 200
        await KeyRepository(second.backend.documents).revoke("alice")
        for api in (first, second):
            await wait_until(lambda api=api: is_refused(api, key), "the key to be refused")


async def is_refused(api: Api, key: dict[str, str]) -> bool:
    return (await api.get("/v1/jobs", **key)).status == 401


async def test_a_public_address_requires_keys() -> None:
    public = settings_for_tests(host="0.0.0.0", no_auth=None)
    async with open_embedded(None) as backend:
        with pytest.raises(SettingsError, match=r"^0\.0\.0\.0 is not a loopback address.* 'ignite keys create"):
            await require_keys(backend, public)
        await require_keys(backend, settings_for_tests())
        await require_keys(backend, settings_for_tests(host="0.0.0.0", api_keys="alice=secret-of-alice-4711"))
        await KeyRepository(backend.documents).create("alice")
        await require_keys(backend, public)


UNKNOWN_KEY = "sk-ignite-" + "w" * 43


async def test_wrong_keys_are_limited_while_the_right_one_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LEAST_HOLD", 0.0)
    monkeypatch.setattr(limits, "HELD_PER_SECOND", 1_000_000)
    async with embedded_api(api_keys="alice=secret-of-alice-4711", grpc=True) as api:
        wrong = UNKNOWN_KEY
        carol = await stored_key(api, "carol")
        with capture_logs() as lines:
            answers = [await api.get("/v1/models", authorization=f"Bearer {wrong}") for _ in range(BURST + 5)]
            assert [answer.status for answer in answers] == [401] * BURST + [429] * 5
            assert answers[-1].error["code"] == "too_many_failed_authentications"
            assert int(answers[-1].headers["retry-after"]) >= 1
            for key in (ALICE, carol):
                assert (await api.get("/v1/models", **key)).status == 200
            assert (await api.get("/v1/models")).status == 401
            async with grpc_client(api.grpc_address) as client:
                call = client.unary(ask(), metadata={"authorization": f"Bearer {wrong}"})
                assert (await refused(call)).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert [line for line in lines if line["event"] == "auth.failed"]
        assert "www" not in str(lines)


async def test_answers_to_an_address_that_fails_too_often_are_held_back_and_make_room_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "LEAST_HOLD", 600.0)
    monkeypatch.setattr(limits, "MOST_HOLD", 600.0)
    request = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {UNKNOWN_KEY}\r\n\r\n".encode()
    keys = "alice=secret-of-alice-4711"
    async with embedded_api(api_keys=keys, connection_limit=40) as api, AsyncExitStack() as stack:
        for _ in range(BURST):
            await api.get("/v1/models", authorization=f"Bearer {UNKNOWN_KEY}")
        connections = api.context.connections
        held = [await stack.enter_async_context(api.connected(request * 3)) for _ in range(3)]
        await wait_until(lambda: connections.held == 3, "the answers to be held back")
        assert (await api.get("/v1/models", **ALICE)).status == 200
        for _ in range(connections.address_limit):
            await stack.enter_async_context(api.connected(b""))
        await wait_until(lambda: connections.held == 0, "the held connections to make room")
        for reader in held:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)


async def test_an_answer_that_was_held_back_comes_and_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEAST_HOLD", 0.05)
    async with embedded_api(api_keys="alice=secret-of-alice-4711") as api:
        for key in (UNKNOWN_KEY, ""):
            header = f"Authorization: Bearer {key}\r\n" if key else ""
            request = f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode()
            for _ in range(BURST):
                await api.get("/v1/models", **({"authorization": f"Bearer {key}"} if key else {}))
            async with api.connected(request * 3) as reader:
                answers = await reader.read()
            assert answers.count(b"HTTP/1.1 ") == 1
            assert answers.startswith(b"HTTP/1.1 429" if key else b"HTTP/1.1 401")
            assert b"connection: close" in answers
        await wait_until(lambda: api.context.connections.held == 0, "the held connections to be forgotten")
