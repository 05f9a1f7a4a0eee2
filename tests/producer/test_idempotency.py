"""Idempotency-Key: a repeated request finds its job."""

import asyncio
import json
from typing import Any

import pytest

from shared.errors import QueueFull
from shared.ports import Message
from tests.producer.api import COMPLETIONS, Answer, Api, ask, embedded_api, raw_post
from tests.support.wait_until import wait_until


@pytest.fixture(params=["embedded", "distributed"])
def any_api(request: pytest.FixtureRequest) -> Api:
    return request.getfixturevalue({"embedded": "api", "distributed": "distributed_api"}[request.param])


async def keyed(api: Api, body: object, key: str = "a-key", **headers: str) -> Answer:
    return await api.post(body, idempotency_key=key, **headers)


async def test_a_repeated_call_gets_the_same_answer(any_api: Api) -> None:
    first = await keyed(any_api, ask())
    again = await keyed(any_api, ask())
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["x-job-id"] == first.headers["x-job-id"]
    assert len(any_api.engine.asked) == 1


async def test_a_repeated_stream_starts_at_its_first_frame(any_api: Api) -> None:
    first = await keyed(any_api, ask(stream=True))
    again = await keyed(any_api, ask(stream=True))
    assert (again.status, again.body) == (200, first.body)
    assert len(any_api.engine.asked) == 1


async def test_a_repeated_call_follows_a_running_stream(any_api: Api) -> None:
    body = ask("itl=20", stream=True, max_tokens=20)
    async with any_api.connected(raw_post(body, "Idempotency-Key: a-key")) as reader:
        await reader.readuntil(b" t003")
        joined = await keyed(any_api, body)
    assert len(joined.frames) == 22
    assert len(any_api.engine.asked) == 1


async def test_a_repeated_background_call_gets_the_same_job(any_api: Api) -> None:
    first = await keyed(any_api, ask(background=True))
    again = await keyed(any_api, ask(background=True))
    assert (first.status, again.status) == (202, 202)
    assert again.json["id"] == first.json["id"]
    assert again.headers["location"] == first.headers["location"]
    assert [job["id"] for job in await any_api.jobs()] == [first.json["id"]]


async def test_a_hundred_concurrent_calls_create_one_job(any_api: Api) -> None:
    answers = await asyncio.gather(*(keyed(any_api, ask()) for _ in range(100)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len(any_api.engine.asked) == len(await any_api.jobs()) == 1


async def test_the_same_fields_in_another_order_are_the_same_request(api: Api) -> None:
    first = await keyed(api, ask(seed=1, n=2))
    shuffled = json.dumps(dict(reversed(ask(seed=1, n=2).items())), indent=2)
    headers = {"idempotency-key": "a-key", "content-type": "application/json"}
    again = await api.call("POST", COMPLETIONS, data=shuffled, headers=headers)
    assert again.body == first.body


@pytest.mark.parametrize("other", [ask("seed=8"), ask(seed=1), ask(stream=True)])
async def test_a_key_is_for_one_request(any_api: Api, other: dict[str, Any]) -> None:
    await keyed(any_api, ask())
    refused = await keyed(any_api, other)
    assert (refused.status, refused.error["code"]) == (422, "idempotency_key_reused")
    assert refused.error["param"] == "Idempotency-Key"
    assert (await keyed(any_api, other, "another-key")).status == 200


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_bad_key_is_refused(api: Api, key: str) -> None:
    refused = await keyed(api, ask(), key)
    assert (refused.status, refused.error["param"]) == (400, "Idempotency-Key")


async def test_tenants_have_separate_keys() -> None:
    async with embedded_api(api_keys="alice=sk-alice-alice-0123456789,bob=sk-bob-bob-0123456789") as api:
        mine = await keyed(api, ask(), authorization="Bearer sk-alice-alice-0123456789")
        theirs = await keyed(api, ask("seed=8"), authorization="Bearer sk-bob-bob-0123456789")
    assert (mine.status, theirs.status) == (200, 200)
    assert mine.json["id"] != theirs.json["id"]


async def test_a_disconnecting_client_does_not_affect_the_others(any_api: Api) -> None:
    any_api.engine.gate.clear()
    async with any_api.connected(raw_post(ask(), "Idempotency-Key: a-key")):
        await wait_until(lambda: any_api.engine.working, "the engine to work")
        other = asyncio.create_task(keyed(any_api, ask()))
        await wait_until(lambda: len(any_api.server.server_state.tasks) == 2, "the other to arrive")
    await wait_until(lambda: len(any_api.server.server_state.tasks) == 1, "the first to be gone")
    any_api.engine.gate.set()
    assert (await other).json["choices"][0]["message"]["content"] == " t007 t008 t009"


async def test_a_reconnecting_client_gets_the_whole_answer(any_api: Api) -> None:
    async with any_api.connected(raw_post(ask("seed=7 ttft=300"), "Idempotency-Key: a-key")):
        await wait_until(lambda: any_api.engine.working, "the engine to work")
    assert (await keyed(any_api, ask("seed=7 ttft=300"))).status == 200
    assert len(any_api.engine.asked) == 1


async def test_a_failure_is_stored_under_the_key(api: Api) -> None:
    first = await keyed(api, ask("refuse"))
    again = await keyed(api, ask("refuse"))
    assert (first.status, again.status) == (400, 400)
    assert again.error == first.error
    assert len(api.engine.asked) == 1


async def test_a_refused_request_frees_its_key(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(message: Message) -> None:
        raise QueueFull("The queue is full.")

    with monkeypatch.context() as patch:
        patch.setattr(api.backend.queue, "publish", full)
        refused = await keyed(api, ask())
        assert (refused.status, refused.error["code"]) == (429, "queue_full")
        await wait_until(lambda: nothing_is_left(api), "the key to be freed")
    assert (await keyed(api, ask("seed=8"))).status == 200


async def nothing_is_left(api: Api) -> bool:
    return not await api.jobs()


async def test_a_refusal_reaches_other_clients_of_the_same_key(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    refused, publishing = asyncio.Event(), asyncio.Event()

    async def full(message: Message) -> None:
        publishing.set()
        await refused.wait()
        raise QueueFull("The queue is full.")

    monkeypatch.setattr(api.backend.queue, "publish", full)
    first = asyncio.create_task(keyed(api, ask()))
    await publishing.wait()
    second = asyncio.create_task(keyed(api, ask()))
    await wait_until(lambda: is_followed_twice(api), "the second to wait")
    refused.set()
    assert [(await answer).status for answer in (first, second)] == [429, 429]


async def is_followed_twice(api: Api) -> bool:
    hub = api.backend.log._hub  # type: ignore[attr-defined]
    return any(len(followers) == 2 for followers in hub._followers.values())


async def test_a_deleted_job_frees_its_key(any_api: Api) -> None:
    first = (await keyed(any_api, ask())).json["id"]
    await any_api.call("DELETE", f"/v1/jobs/{first}")
    assert (await keyed(any_api, ask("seed=8"))).json["id"] != first


async def test_a_request_with_a_key_outlives_its_clients_timeout(idle_api: Api) -> None:
    """The SDK times out and retries."""
    async with idle_api.connected(raw_post(ask(), "Idempotency-Key: a-key", "x-stainless-read-timeout: 0.1")):
        (job,) = await wait_until(idle_api.queued, "the call to wait")
    assert job["deadline_at"] - job["created_at"] == idle_api.settings.job_deadline
    async with idle_api.worker():
        assert (await keyed(idle_api, ask())).json["id"] == job["id"]


# ── SDKs that send no key, and say that they send something again ──

FIRST, AGAIN = "x-stainless-retry-count: 0", "1"


async def sent_again(api: Api, body: object) -> Answer:
    return await api.post(body, **{"x-stainless-retry-count": AGAIN})


@pytest.mark.parametrize("stream", [False, True])
async def test_an_sdks_retry_finds_its_job(any_api: Api, stream: bool) -> None:
    any_api.engine.gate.clear()
    async with any_api.connected(raw_post(ask(stream=stream), FIRST, "X-On-Disconnect: continue")):
        await wait_until(lambda: any_api.engine.working, "the engine to work")
    (job,) = await any_api.jobs()
    await wait_until(lambda: job["id"] not in any_api.backend.log._hub, "the first to be gone")
    again = asyncio.create_task(sent_again(any_api, ask(stream=stream)))
    await wait_until(lambda: job["id"] in any_api.backend.log._hub, "the second to wait")
    any_api.engine.gate.set()
    answer = await again
    assert answer.status == 200
    assert answer.headers["x-job-id"] == job["id"]
    assert (answer.text if stream else answer.json["choices"][0]["message"]["content"]) == " t007 t008 t009"
    assert len(any_api.engine.asked) == 1


async def test_an_sdks_retry_gets_no_job_that_has_a_client(any_api: Api) -> None:
    any_api.engine.gate.clear()
    async with any_api.connected(raw_post(ask(), FIRST)):
        await wait_until(lambda: any_api.engine.working, "the engine to work")
        again = asyncio.create_task(sent_again(any_api, ask()))
        await wait_until(lambda: any_api.engine.working == 2, "a job of its own")
        any_api.engine.gate.set()
        assert (await again).status == 200


async def test_an_sdks_retry_gets_no_job_of_another_request(any_api: Api) -> None:
    async with any_api.connected(raw_post(ask("seed=7 ttft=60000"), FIRST, "X-On-Disconnect: continue")):
        await wait_until(lambda: any_api.engine.working, "the engine to work")
    assert (await sent_again(any_api, ask())).status == 200
    assert len(any_api.engine.asked) == 2
