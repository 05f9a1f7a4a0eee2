"""The limits of request bytes in a process's memory."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from prometheus_client import REGISTRY

from producer.http.edge.body_budget import SMALL, BodyBudget
from shared.errors import InvalidRequest, RateLimited, Unavailable
from shared.schema import ChatCompletionRequest
from tests.producer.api import Api, ask, embedded_api
from tests.support.batches import assert_each_once, begun, jsonl, line, outcome_of, over
from tests.support.wait_until import wait_until

NAMES = ("alice", "bob", "carol")
KEYS = ",".join(f"{name}={name}-0123456789abcdef" for name in NAMES)
ALICE, BOB, CAROL = ({"authorization": f"Bearer {name}-0123456789abcdef"} for name in NAMES)
SIZE = 100_000


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """An API whose budget fits two large bodies of a tenant, and three in total."""
    async with embedded_api(
        api_keys=KEYS, body_budget=int(3.5 * SIZE), tenant_body_budget=int(2.5 * SIZE), body_limit=10 * SIZE
    ) as api:
        yield api


def large(size: int = SIZE, **fields: Any) -> bytes:
    body = ask("seed=7", **fields)
    body["user"] = "x" * (size - len(json.dumps(body)) - 12)
    return json.dumps(body).encode()


async def post(api: Api, body: Any, headers: dict[str, str]) -> Any:
    json_type = {"content-type": "application/json"}
    return await api.call("POST", "/v1/chat/completions", data=body, headers=headers | json_type)


async def test_body_bytes_are_limited_per_tenant_and_process(api: Api) -> None:
    """A body counts from its first byte to the end of its answer."""
    api.engine.gate.clear()
    waiting = [asyncio.create_task(post(api, large(), ALICE)) for _ in range(2)]
    await wait_until(lambda: api.context.bodies.held > 1.9 * SIZE, "two bodies")
    refused = await post(api, large(), ALICE)
    assert (refused.status, refused.error["code"]) == (429, "too_many_request_bytes")
    assert int(refused.headers["retry-after"]) >= 1
    waiting.append(asyncio.create_task(post(api, large(), BOB)))
    await wait_until(lambda: api.context.bodies.held > 2.9 * SIZE, "three bodies")
    busy = await post(api, large(), CAROL)
    assert (busy.status, busy.error["code"]) == (503, "server_busy")
    assert int(busy.headers["retry-after"]) >= 1
    for bound in ("tenant", "process"):
        assert (REGISTRY.get_sample_value("ignite_request_bodies_refused_total", {"bound": bound}) or 0) >= 1
    small = asyncio.create_task(post(api, json.dumps(ask()), CAROL))
    assert (await api.call("GET", "/v1/models", headers=CAROL)).status == 200
    api.engine.gate.set()
    assert [answer.status for answer in await asyncio.gather(*waiting, small)] == [200] * 4
    assert api.context.bodies.held == 0
    assert (await post(api, large(), ALICE)).status == 200


async def test_a_body_without_a_length_is_counted_as_it_arrives(api: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        body = large(3 * SIZE)
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    api.engine.gate.clear()
    waiting = asyncio.create_task(post(api, large(), ALICE))
    await wait_until(lambda: api.context.bodies.held > 0.9 * SIZE, "a body")
    assert (await post(api, chunks(), ALICE)).error["code"] == "too_many_request_bytes"
    api.engine.gate.set()
    assert (await waiting).status == 200
    await wait_until(lambda: api.context.bodies.held == 0, "room")


async def test_announced_bodies_count_up_to_the_tenants_limit(api: Api) -> None:
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: ignite\r\nContent-Type: application/json\r\n"
    head += f"Authorization: {ALICE['authorization']}\r\nContent-Length: {SIZE}\r\n\r\n"
    async with AsyncExitStack() as clients:
        for _ in range(2):
            await clients.enter_async_context(api.connected(head.encode() + b"{"))
        await wait_until(lambda: api.context.bodies.held == 2 * SIZE, "two bodies")
        assert b" 429 " in await api.raw(head.encode())
        assert (await post(api, large(), BOB)).status == 200
    await wait_until(lambda: api.context.bodies.held == 0, "the clients to be gone")


async def test_uploads_do_not_count(api: Api) -> None:
    async with embedded_api(worker=False, body_budget=2048, tenant_body_budget=1024) as small:
        data = b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--x\r\n'
        data += b'content-disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(SIZE) + b"\r\n--x--\r\n"
        kind = {"content-type": "multipart/form-data; boundary=x"}
        assert (await small.call("POST", "/v1/files", data=data, headers=kind)).status == 200


def parsed_requests() -> list[ChatCompletionRequest]:
    return [each for each in gc.get_objects() if isinstance(each, ChatCompletionRequest)]


async def test_the_parsed_request_is_freed_while_its_client_waits(api: Api) -> None:
    others = (
        parsed_requests()
    )  # Other tests' modules may keep some. They stay referenced here, so their ids stay theirs.
    known = set(map(id, others))
    api.engine.gate.clear()
    waiting = asyncio.create_task(post(api, large(), ALICE))
    await wait_until(lambda: api.engine.asked, "the engine to be asked")
    await wait_until(lambda: all(id(each) in known for each in parsed_requests()), "the end of it")
    api.engine.gate.set()
    assert (await waiting).status == 200


async def test_a_refused_body_is_freed_without_garbage_collection(api: Api) -> None:
    """Garbage collection is rare in a serving process, so large refused bodies would exceed the budget until then."""
    gc.collect()
    gc.disable()
    try:
        for size in (SIZE, 6 * SIZE):  # checked on the loop, and beside it
            assert (await post(api, large(size, n="x"), ALICE)).status == 400
        assert not any(isinstance(each, InvalidRequest) and each.param == "n" for each in gc.get_objects())
    finally:
        gc.enable()


async def test_batch_lines_wait_for_room_in_the_budget(tmp_path: Path) -> None:
    """Batch lines leave half of the budget to requests that cannot wait."""
    async with (
        embedded_api(files_dir=tmp_path, body_budget=4 * SIZE, tenant_body_budget=4 * SIZE) as api,
        AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as client,
    ):
        api.engine.gate.clear()
        batch = await begun(client, jsonl(line(number, user="x" * SIZE) for number in range(6)))
        await wait_until(lambda: api.engine.working >= 2, "two lines")
        assert 2 * SIZE < api.context.bodies.held < 3 * SIZE
        small = asyncio.create_task(post(api, large(), {}))
        await wait_until(lambda: api.engine.working >= 3, "a call beside the batch")
        api.engine.gate.set()
        assert (await small).status == 200
        done, _ = await outcome_of(client, await over(client, batch))
        assert_each_once(done, range(6))
        assert api.context.bodies.held == 0


def test_a_single_body_is_accepted_whatever_its_size() -> None:
    budget = BodyBudget(10, 5)
    body = budget.open("a")
    body.grow(SMALL)
    with pytest.raises(RateLimited):
        budget.open("a").grow(1)
    with pytest.raises(Unavailable):
        budget.open("b").grow(1)
    body.release()
    body.release()
    assert budget.held == 0
