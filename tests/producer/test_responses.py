"""/v1/responses over HTTP: a response is a job that any replica answers for."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.producer.api import MODEL, Answer, Api, embedded_api, raw_post
from tests.support.wait_until import wait_until

RESPONSES = "/v1/responses"
WORDS = " t007 t008 t009"


@pytest.fixture(params=["embedded", "distributed"])
def any_api(request: pytest.FixtureRequest) -> Api:
    return request.getfixturevalue({"embedded": "api", "distributed": "distributed_api"}[request.param])


@pytest.fixture
async def keyed_api() -> AsyncIterator[Api]:
    async with embedded_api(api_keys="alice=secret-of-alice-4711,bob=secret-of-bob-4711") as api:
        yield api


def ask(prompt: Any = "seed=7", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": prompt, **fields}


async def respond(api: Api, prompt: Any = "seed=7", headers: dict[str, str] | None = None, **fields: Any) -> Any:
    answer = await api.post(ask(prompt, **fields), RESPONSES, **headers or {})
    assert answer.status in (200, 202), answer.body
    return answer.json


async def ended(api: Api, response: str) -> Any:
    async def over() -> Any:
        found = (await api.get(f"{RESPONSES}/{response}?wait=5")).json
        assert found["status"] not in ("queued", "in_progress")
        return found

    return await wait_until(over, f"the end of {response}")


def text_of(response: Any) -> str:
    return "".join(part["text"] for item in response["output"] for part in item.get("content", ()))


def events_of(answer: Answer) -> list[Any]:
    lines = answer.body.decode().splitlines()
    return [orjson.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


async def test_a_response_is_kept_as_it_was_answered(any_api: Api) -> None:
    response = await respond(any_api, metadata={"a": "b"})
    assert (response["status"], text_of(response), response["metadata"]) == ("completed", WORDS, {"a": "b"})
    assert (await any_api.get(f"{RESPONSES}/{response['id']}")).json == response


async def test_a_stream_is_the_same_when_it_is_read_again(any_api: Api) -> None:
    answer = await any_api.post(ask(stream=True), RESPONSES)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer)
    response = events[-1]["response"]
    assert (events[-1]["type"], text_of(response)) == ("response.completed", WORDS)
    path = f"{RESPONSES}/{response['id']}"
    assert (await any_api.get(f"{path}?stream=true")).body == answer.body
    assert events_of(await any_api.get(f"{path}?stream=true&starting_after=6")) == events[7:]
    assert (await any_api.get(path)).json == response


async def test_a_response_without_a_log_has_events_too(any_api: Api) -> None:
    response = await respond(any_api)
    events = events_of(await any_api.get(f"{RESPONSES}/{response['id']}?stream=true"))
    assert events[0]["type"] == "response.created"
    assert events[-1]["response"] == response


async def test_a_background_response(any_api: Api) -> None:
    any_api.engine.gate.clear()
    answer = await any_api.post(ask(background=True), RESPONSES)
    queued = answer.json
    assert (answer.status, queued["status"], queued["output"]) == (200, "queued", [])
    path = f"{RESPONSES}/{queued['id']}"
    assert answer.headers["location"] == path
    assert int((await any_api.get(path)).headers["retry-after"]) >= 1
    any_api.engine.gate.set()
    assert text_of(await ended(any_api, queued["id"])) == WORDS
    events = events_of(await any_api.get(f"{path}?stream=true"))
    assert [event["type"] for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]


async def test_a_background_stream_begins_before_the_job_does(idle_api: Api) -> None:
    async with idle_api.connected(raw_post(ask(background=True, stream=True), path=RESPONSES)) as reader:
        await reader.readuntil(b"event: response.queued")
    (job,) = await idle_api.queued()
    assert job["status"] == "queued", "a client that leaves does not cancel it"
    assert job["urls"]["response"].startswith(f"{RESPONSES}/resp_")


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"store": False}])
async def test_a_client_that_leaves_cancels_its_response(any_api: Api, fields: dict[str, Any]) -> None:
    async with any_api.connected(raw_post(ask("ttft=60000", **fields), path=RESPONSES)):
        await wait_until(lambda: any_api.engine.working, "the engine to work")
    await wait_until(lambda: not any_api.engine.working, "the engine to hear of it")


async def test_prefer_makes_a_background_response(any_api: Api) -> None:
    answer = await any_api.post(ask(), RESPONSES, prefer="respond-async")
    assert (answer.status, answer.json["background"]) == (202, True)
    assert answer.headers["preference-applied"] == "respond-async"
    assert text_of(await ended(any_api, answer.json["id"])) == WORDS
    waited = await any_api.post(ask(), RESPONSES, prefer="wait=20")
    assert (waited.status, waited.json["status"]) == (200, "completed")
    refused = await any_api.post(ask(store=False), RESPONSES, prefer="respond-async")
    assert (refused.status, refused.error["param"]) == (400, "store")


async def test_cancel(any_api: Api) -> None:
    queued = await respond(any_api, "itl=60000 ttft=60000", background=True)
    path = f"{RESPONSES}/{queued['id']}"
    for _ in range(2):
        cancelled = await any_api.post({}, f"{path}/cancel")
        assert (cancelled.status, cancelled.json["status"]) == (200, "cancelled")
    last = events_of(await any_api.get(f"{path}?stream=true"))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "cancelled")
    foreground = await respond(any_api)
    refused = await any_api.post({}, f"{RESPONSES}/{foreground['id']}/cancel")
    assert refused.status == 400


async def test_a_chain_outlives_its_links(any_api: Api) -> None:
    one = await respond(any_api, "seed=7", instructions="be brief")
    two = await respond(any_api, "seed=8", previous_response_id=one["id"], stream=False)
    for link in (one, two):
        if link is one:
            deleted = await any_api.call("DELETE", f"{RESPONSES}/{one['id']}")
            assert deleted.json == {"id": one["id"], "object": "response", "deleted": True}
            assert (await any_api.get(f"{RESPONSES}/{one['id']}")).status == 404
    three = await respond(any_api, "seed=9", previous_response_id=two["id"], instructions="be kind")
    assert three["previous_response_id"] == two["id"]
    said = [(message["role"], message["content"]) for message in any_api.engine.asked[-1]["messages"]]
    assert said == [
        *(("system", "be kind"), ("user", "seed=7"), ("assistant", WORDS), ("user", "seed=8")),
        *(("assistant", " t008 t009 t010"), ("user", "seed=9")),
    ]


async def test_what_cannot_be_continued(any_api: Api) -> None:
    any_api.engine.gate.clear()
    running = (await respond(any_api, background=True))["id"]
    unstored = (await asyncio.gather(respond(any_api, store=False), opened(any_api)))[0]["id"]
    any_api.engine.gate.clear()
    running = (await respond(any_api, background=True))["id"]
    chat = (await any_api.submit({"model": MODEL, "messages": [{"role": "user", "content": "x"}]})).replace(
        "chatcmpl-", "resp_"
    )
    for response, code in (
        (running, "previous_response_not_completed"),
        *((unknown, "previous_response_not_found") for unknown in (unstored, chat, "resp_x", f"resp_{'0' * 32}")),
    ):
        refused = await any_api.post(ask(previous_response_id=response), RESPONSES)
        assert (refused.status, refused.error["param"]) == (400, "previous_response_id")
        assert refused.error["code"] == code
    for response in (unstored, chat):
        assert (await any_api.get(f"{RESPONSES}/{response}")).status == 404
    any_api.engine.gate.set()


async def opened(api: Api) -> None:
    api.engine.gate.set()


async def test_input_items_and_references_to_them(any_api: Api) -> None:
    parts = [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "seed=7"}]
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "x"}
    response = await respond(
        any_api, [{"role": "system", "content": "s"}, call, output, {"role": "user", "content": parts}]
    )
    path = f"{RESPONSES}/{response['id']}/input_items"
    listed = (await any_api.get(f"{path}?order=asc")).json
    assert [item["type"] for item in listed["data"]] == ["message", "function_call", "function_call_output", "message"]
    assert len({item["id"] for item in listed["data"]}) == 4
    page = (await any_api.get(f"{path}?limit=1&after={listed['data'][2]['id']}")).json
    assert ([item["type"] for item in page["data"]], page["has_more"]) == (["function_call"], True)
    reference = {"type": "item_reference", "id": listed["data"][3]["id"]}
    said = {"type": "item_reference", "id": response["output"][0]["id"]}
    again = await respond(any_api, [reference, said, {"role": "user", "content": "seed=9"}])
    assert again["status"] == "completed"
    roles = [message["role"] for message in any_api.engine.asked[-1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    unknown = await any_api.post(ask([{"type": "item_reference", "id": f"msg_{'0' * 32}7"}]), RESPONSES)
    assert (unknown.status, unknown.error["param"]) == (404, "input[0].id")


@pytest.mark.parametrize("kind", ["message", "reasoning"])
async def test_a_reference_counts_as_often_as_it_is_repeated(kind: str) -> None:
    """Thoughts do not reach the engine, but are kept with the response."""
    long = "seed=7" + " " * 4000
    thoughts = {"type": "reasoning", "summary": [{"type": "summary_text", "text": long}]}
    message = {"role": "user", "content": long}
    async with embedded_api(body_limit=10_000) as api:
        response = await respond(api, [message if kind == "message" else thoughts, {"role": "user", "content": "hi"}])
        listed = (await api.get(f"{RESPONSES}/{response['id']}/input_items?order=asc")).json
        reference = {"type": "item_reference", "id": listed["data"][0]["id"]}
        for copies, status in ((2, 200), (3, 400)):
            answer = await api.post(ask([*[reference] * copies, {"role": "user", "content": "hi"}]), RESPONSES)
            assert answer.status == status
        assert answer.error["param"] == "input[2].id"


async def test_a_tenant_cannot_build_upon_anothers(keyed_api: Api) -> None:
    alice, bob = ({"authorization": f"Bearer secret-of-{name}-4711"} for name in ("alice", "bob"))
    response = await respond(keyed_api, headers=alice)
    chained = await keyed_api.post(ask(previous_response_id=response["id"]), RESPONSES, **bob)
    assert (chained.status, chained.error["code"]) == (400, "previous_response_not_found")
    item = {"type": "item_reference", "id": response["output"][0]["id"]}
    referred = await keyed_api.post(ask([item]), RESPONSES, **bob)
    assert referred.status == 404


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"background": True}, {"background": True, "stream": True}])
async def test_a_call_that_is_repeated_gets_the_same_response(any_api: Api, fields: dict[str, Any]) -> None:
    first, again = [await any_api.post(ask(**fields), RESPONSES, idempotency_key="a-key") for _ in range(2)]
    assert again.status == 200
    if "background" not in fields or "stream" in fields:
        assert again.body == first.body
    else:
        assert again.json["id"] == first.json["id"]
    assert len(any_api.engine.asked) <= 1
    other = await any_api.post(ask("seed=8", **fields), RESPONSES, idempotency_key="a-key")
    assert (other.status, other.error["code"]) == (422, "idempotency_key_reused")


async def test_a_failure_has_its_own_status_and_the_clients_field(any_api: Api) -> None:
    for fields in ({}, {"stream": True}):
        refused = await any_api.post(ask("refuse", **fields), RESPONSES)
        assert (refused.status, refused.error["param"]) == (400, "input")
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "http://10.0.0.1/"}]}]
    for fields in ({}, {"stream": True}, {"background": True}):
        refused = await any_api.post(ask(image, **fields), RESPONSES)
        assert (refused.status, refused.error["param"]) == (400, "input[0].content[0].image_url")
    broken = events_of(await any_api.post(ask("break", stream=True), RESPONSES))
    assert broken[-1]["type"] == "response.failed"
    assert broken[-1]["response"]["error"]["code"] == "server_error"
    assert broken[-1]["response"]["output"][0]["status"] == "incomplete"
    kept = (await any_api.get(f"{RESPONSES}/{broken[0]['response']['id']}")).json
    assert kept == broken[-1]["response"]


async def test_input_tokens_are_counted_by_the_engine(any_api: Api) -> None:
    counted = await any_api.post(ask("one two three", instructions="four", stream=True), f"{RESPONSES}/input_tokens")
    assert counted.json == {"object": "response.input_tokens", "input_tokens": 4}
    assert any_api.engine.asked[-1]["max_completion_tokens"] == 1


async def test_a_retry_never_receives_a_count_of_the_same_request(any_api: Api) -> None:
    """A count's job may say one token."""
    any_api.engine.gate.clear()
    headers = ("x-stainless-retry-count: 0", "X-On-Disconnect: continue")
    async with any_api.connected(raw_post(ask(), *headers, path=f"{RESPONSES}/input_tokens")):
        await wait_until(lambda: any_api.engine.working, "the engine to count")
    (job,) = await any_api.jobs()
    await wait_until(lambda: job["id"] not in any_api.backend.log._hub, "the first to be gone")
    again = asyncio.create_task(any_api.post(ask(), RESPONSES, x_stainless_retry_count="1"))
    await wait_until(lambda: any_api.engine.working == 2, "a job of its own")
    any_api.engine.gate.set()
    assert text_of((await again).json) == WORDS


async def test_responses_are_no_stored_completions(any_api: Api) -> None:
    response = await respond(any_api)
    job_id = response["id"].replace("resp_", "chatcmpl-")
    assert (await any_api.get("/v1/chat/completions")).json["data"] == []
    assert (await any_api.get(f"/v1/chat/completions/{job_id}")).status == 404
    assert (await any_api.job(job_id))["urls"]["response"] == f"{RESPONSES}/{response['id']}"
