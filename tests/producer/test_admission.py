"""Refusals at admission, which leave nothing behind."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.producer.api import Answer, Api, ask, embedded_api
from tests.support.wait_until import wait_until


@pytest.fixture
async def full_api() -> AsyncIterator[Api]:
    """An API whose queue is full with one job."""
    async with embedded_api(worker=False, queue_limit=1) as api:
        await api.submit(ask("seed=1"))
        yield api


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"background": True}], ids=["unary", "stream", "job"])
async def test_a_full_queue_sends_retry_after(full_api: Api, fields: dict[str, bool]) -> None:
    answer = await full_api.post(ask(**fields))
    assert answer.status == 429
    assert (answer.error["type"], answer.error["code"]) == ("rate_limit_error", "queue_full")
    assert 1 <= int(answer.headers["retry-after"]) <= 120


async def test_a_request_refused_by_a_full_queue_leaves_no_record(full_api: Api) -> None:
    await full_api.post(ask("seed=2", background=True))
    assert len(await full_api.jobs()) == 1
    async with full_api.worker():
        await wait_until(lambda: full_api.engine.asked)
        assert (await full_api.post(ask("seed=3"))).status == 200
    assert [request["messages"][0]["content"] for request in full_api.engine.asked] == ["seed=1", "seed=3"]


async def test_the_other_tiers_queues_are_not_full(full_api: Api) -> None:
    assert (await full_api.post(ask(background=True, service_tier="priority"))).status == 202


async def test_a_draining_replica_refuses_new_calls(api: Api) -> None:
    api.service.draining = True
    answer = await api.post(ask())
    assert (answer.status, answer.error["code"]) == (503, "shutting_down")
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert (await api.get("/readyz")).status == 503


async def test_open_calls_finish_during_the_drain(api: Api) -> None:
    call = asyncio.create_task(api.post(ask("seed=7 ttft=300", stream=True)))
    await wait_until(lambda: api.engine.working)
    api.server.should_exit = True
    assert (await call).text == " t007 t008 t009"


async def test_an_unavailable_store_is_503(idle_api: Api) -> None:
    await idle_api.backend.close()
    for answer in (await idle_api.post(ask()), await idle_api.get("/v1/jobs/chatcmpl-1")):
        assert (answer.status, answer.error["code"]) == (503, "store_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert_not_ready(await idle_api.get("/readyz"))
    assert (await idle_api.get("/healthz")).status == 200


def assert_not_ready(answer: Answer) -> None:
    assert answer.status == 503
    assert answer.json["status"] == "unavailable"
    assert answer.json["checks"]["database"] != "ok"
