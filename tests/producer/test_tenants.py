"""Tenants cannot see each other's data. The test covers all routes of the application; a new route fails until this
file can create its objects.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.producer.api import MODEL, Answer, Api, ask, embedded_api

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALICE = {"authorization": "Bearer secret-of-alice-4711"}
BOB = {"authorization": "Bearer secret-of-bob-4711"}

SHARED = ("/v1/models", "/v1/models/{model_id}")
"""What belongs to nobody."""

OPERATORS = ("/v1/dead", "/v1/queues", "/v1/workers")
"""What only an operator's key may see: whose things they are makes no difference."""

BODIES: dict[str, Any] = {"/v1/chat/completions/{completion_id}": {"metadata": {"seen": "by bob"}}}
"""Of POSTs that want one."""


async def a_job(api: Api) -> str:
    return await api.submit(ask(), **ALICE)


async def a_stored_completion(api: Api) -> str:
    return (await api.post(ask(store=True), **ALICE)).json["id"]


async def a_response(api: Api) -> str:
    body = {"model": MODEL, "input": "seed=7", "background": True}
    return (await api.post(body, "/v1/responses", **ALICE)).json["id"]


async def a_file(api: Api) -> str:
    form = aiohttp.FormData({"purpose": "user_data"}, default_to_multipart=True)
    form.add_field("file", b"alice's own", filename="a.txt")
    return (await api.call("POST", "/v1/files", data=form, headers=ALICE)).json["id"]


async def a_batch(api: Api) -> str:
    form = aiohttp.FormData({"purpose": "batch"}, default_to_multipart=True)
    form.add_field("file", b"{}", filename="a.jsonl")
    file_id = (await api.call("POST", "/v1/files", data=form, headers=ALICE)).json["id"]
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert (await api.post(body, "/v1/batches", **BOB)).status in (400, 404), "another's file cannot be run"
    return (await api.post(body, "/v1/batches", **ALICE)).json["id"]


MAKERS: dict[str, Callable[[Api], Awaitable[str]]] = {
    "job_id": a_job,
    "completion_id": a_stored_completion,
    "response_id": a_response,
    "file_id": a_file,
    "batch_id": a_batch,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed_api() -> AsyncIterator[Api]:
    async with embedded_api(api_keys="alice=secret-of-alice-4711,bob=secret-of-bob-4711") as api:
        yield api


async def routes(api: Api) -> list[tuple[str, str, list[str]]]:
    """Returns path, method and path parameters of every route under /v1 with an object's id."""
    paths = (await api.get("/openapi.json")).json["paths"]
    return [
        (path, method.upper(), re.findall(r"{(\w+)", path))
        for path, methods in paths.items()
        if path.startswith("/v1/") and path not in SHARED
        for method in methods
    ]


async def call(api: Api, method: str, path: str, template: str, key: dict[str, str]) -> Answer:
    body = {"json": BODIES[template]} if template in BODIES and method == "POST" else {}
    return await api.call(method, path, headers=key, **body)


async def test_another_tenants_objects_are_404(keyed_api: Api) -> None:
    walked = 0
    for template, method, names in await routes(keyed_api):
        if not names or template.startswith(OPERATORS):
            continue
        (name,) = names
        assert name in MAKERS, f"{method} {template}: say in MAKERS how one is made"
        path = template.replace(f"{{{name}}}", await MAKERS[name](keyed_api))
        answer = await call(keyed_api, method, path, template, BOB)
        assert (answer.status, answer.error["code"]) == (404, "not_found"), f"{method} {path}"
        assert (await call(keyed_api, method, path, template, ALICE)).status != 404, f"{method} {path}"
        walked += 1
    assert walked >= 13


async def test_operators_routes_refuse_tenants(keyed_api: Api) -> None:
    walked = [(method, path) for path, method, _ in await routes(keyed_api) if path.startswith(OPERATORS)]
    assert len(walked) >= 6
    for method, path in walked:
        answer = await keyed_api.call(method, path.format(job_id="x", message_id="x"), headers=BOB)
        assert (answer.status, answer.error["code"]) == (403, "permission_denied"), f"{method} {path}"


async def test_another_tenants_objects_are_not_listed(keyed_api: Api) -> None:
    made = {name: await make(keyed_api) for name, make in MAKERS.items() if name in await names_of(keyed_api)}
    lists = [path for path, method, names in await routes(keyed_api) if method == "GET" and not names]
    assert len(lists) >= 3
    mine = "".join([(await keyed_api.get(path, **ALICE)).body.decode() for path in lists])
    theirs = "".join([(await keyed_api.get(path, **BOB)).body.decode() for path in lists])
    for name, made_id in made.items():
        assert made_id in mine, name
        assert made_id not in theirs, name


async def names_of(api: Api) -> set[str]:
    return {name for _, _, names in await routes(api) for name in names}


async def test_idempotency_keys_are_separate_per_tenant(keyed_api: Api) -> None:
    first, again, other = [
        await keyed_api.post(ask(), idempotency_key="the-same", **key) for key in (ALICE, ALICE, BOB)
    ]
    assert first.json["id"] == again.json["id"] != other.json["id"]
