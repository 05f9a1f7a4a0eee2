"""Stored completions with OpenAI's SDK, and deleted jobs."""

from typing import Any

import pytest

from tests.producer.api import COMPLETIONS, Api, ask, embedded_api
from tests.support.wait_until import wait_until

PARTS = [
    {"type": "text", "text": "seed=7"},
    {"type": "image_url", "image_url": {"url": "https://1.1.1.1/a.png"}},
    {"type": "file", "file": {"file_id": "f"}},
]


async def store(api: Api, prompt: Any = "seed=7", **fields: Any) -> str:
    """Creates a stored completion, and returns its id."""
    answer = await api.post(ask(prompt, store=True, **fields))
    assert answer.status == 200, answer.body
    return answer.json["id"]


async def listed(api: Api, query: str = "") -> list[str]:
    return [each["id"] for each in (await api.get(f"{COMPLETIONS}?{query}")).json["data"]]


async def test_a_stored_completion_is_the_answer_and_its_metadata(api: Api) -> None:
    answer = await api.post(ask(store=True, metadata={"team": "a"}))
    kept = await api.get(f"{COMPLETIONS}/{answer.json['id']}")
    assert kept.json == {**answer.json, "metadata": {"team": "a"}}
    (only,) = (await api.get(COMPLETIONS)).json["data"]
    assert only == kept.json


async def test_a_streamed_completion_is_stored_too(api: Api) -> None:
    stream = await api.post(ask(store=True, stream=True))
    kept = await api.get(f"{COMPLETIONS}/{stream.frames[0]['id']}")
    assert kept.json["choices"][0]["message"]["content"] == stream.text


async def test_only_stored_and_completed_jobs_are_listed(idle_api: Api) -> None:
    waiting = await idle_api.submit(ask(store=True))
    assert (await idle_api.get(f"{COMPLETIONS}/{waiting}")).error["code"] == "not_found"
    async with idle_api.worker():
        await idle_api.ended(waiting)
        unstored = (await idle_api.post(ask())).json["id"]
        failed = await idle_api.submit(ask("refuse", store=True))
        await idle_api.ended(failed)
    assert await listed(idle_api) == [waiting]
    for other in (unstored, failed, "chatcmpl-nobody"):
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/messages")):
            answer = await idle_api.call(method, f"{COMPLETIONS}/{other}{path}")
            assert (answer.status, answer.error["code"]) == (404, "not_found")
        assert (await idle_api.post({"metadata": {}}, f"{COMPLETIONS}/{other}")).status == 404
    assert (await idle_api.job(unstored))["status"] == "completed"


async def test_lists_go_by_age_and_in_pages(api: Api) -> None:
    ids = [await store(api, metadata={"n": str(number)}) for number in range(5)]
    assert await listed(api) == ids
    assert await listed(api, "order=desc") == ids[::-1]
    page = (await api.get(f"{COMPLETIONS}?limit=2&after={ids[1]}")).json
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", ids[2], ids[3], True)
    assert await listed(api, f"order=desc&after={ids[1]}") == [ids[0]]
    assert await listed(api, "metadata[n]=3") == [ids[3]]
    assert await listed(api, "model=simulated&limit=1") == ids[:1]
    assert await listed(api, "model=other") == []


@pytest.mark.parametrize("query", ["order=up", "limit=0", "limit=101", "metadata=x"])
async def test_an_invalid_query_parameter_is_named(api: Api, query: str) -> None:
    answer = await api.get(f"{COMPLETIONS}?{query}")
    assert (answer.status, answer.error["param"]) == (400, query.partition("=")[0])


async def test_metadata_is_replaced(api: Api) -> None:
    completion = await store(api, metadata={"a": "1"})
    changed = await api.post({"metadata": {"b": "2"}}, f"{COMPLETIONS}/{completion}")
    assert (changed.status, changed.json["metadata"]) == (200, {"b": "2"})
    assert await listed(api, "metadata[a]=1") == []
    assert await listed(api, "metadata[b]=2") == [completion]
    assert (await api.post({"metadata": None}, f"{COMPLETIONS}/{completion}")).json["metadata"] == {}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "metadata"),
        ({"metadata": {}, "model": "x"}, "model"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
    ],
)
async def test_bad_metadata_is_refused(api: Api, body: dict[str, Any], param: str) -> None:
    answer = await api.post(body, f"{COMPLETIONS}/{await store(api)}")
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_messages_are_those_of_the_request(api: Api) -> None:
    system = {"role": "system", "content": "Be brief.", "name": "ignite"}
    request = ask(PARTS, store=True)
    request["messages"].insert(0, system)
    completion = (await api.post(request)).json["id"]
    first, second = (await api.get(f"{COMPLETIONS}/{completion}/messages")).json["data"]
    assert first == {**system, "id": f"{completion}-0", "content_parts": None, "refusal": None}
    assert (second["content"], second["content_parts"], second["name"]) == (None, PARTS[:2], None)
    page = (await api.get(f"{COMPLETIONS}/{completion}/messages?order=desc&limit=1")).json
    assert (page["data"], page["has_more"]) == ([second], True)
    rest = (await api.get(f"{COMPLETIONS}/{completion}/messages?order=desc&after={second['id']}")).json
    assert (rest["data"], rest["has_more"]) == ([first], False)


async def test_a_deleted_completion_is_404(api: Api) -> None:
    completion = await store(api)
    answer = await api.call("DELETE", f"{COMPLETIONS}/{completion}")
    assert answer.json == {"id": completion, "object": "chat.completion.deleted", "deleted": True}
    assert (await api.get(f"{COMPLETIONS}/{completion}")).status == 404
    assert (await api.call("DELETE", f"{COMPLETIONS}/{completion}")).status == 404
    assert (await api.get(f"/v1/jobs/{completion}")).status == 404
    assert await listed(api) == []


async def test_stored_completions_have_their_own_retention() -> None:
    async with embedded_api(store_retention=0.2, retention=0.1, job_retention=0.1) as api:
        completion = await store(api)
        await wait_until(lambda: expired(api, f"{COMPLETIONS}/{completion}"))
    async with embedded_api(store_retention=3600, retention=0.1, job_retention=0.1) as api:
        completion, unstored = await store(api), (await api.post(ask())).json["id"]
        await wait_until(lambda: expired(api, f"/v1/jobs/{unstored}"))
        assert (await api.get(f"{COMPLETIONS}/{completion}")).status == 200


async def expired(api: Api, path: str) -> bool:
    answer = await api.get(path)
    return answer.status == 410 and answer.error["code"] == "result_expired"


# ── jobs ──


async def test_an_ended_job_can_be_deleted(api: Api) -> None:
    job_id = await api.submit(ask())
    await api.ended(job_id)
    answer = await api.call("DELETE", f"/v1/jobs/{job_id}")
    assert answer.json == {"id": job_id, "object": "chat.completion.job.deleted", "deleted": True}
    for path in ("", "/result", "/events"):
        assert (await api.get(f"/v1/jobs/{job_id}{path}")).status == 404
    assert await api.jobs() == []


async def test_a_deleted_waiting_job_is_not_run(idle_api: Api) -> None:
    job_id = await idle_api.submit(ask("seed=1"))
    assert (await idle_api.call("DELETE", f"/v1/jobs/{job_id}")).status == 200
    async with idle_api.worker():
        await idle_api.post(ask("seed=2"))
    assert [request["messages"][0]["content"] for request in idle_api.engine.asked] == ["seed=2"]


async def test_a_running_job_is_cancelled_and_deleted(api: Api) -> None:
    job_id = await api.submit(ask("itl=60000"))
    await wait_until(lambda: api.engine.working, "the engine to work")
    assert (await api.call("DELETE", f"/v1/jobs/{job_id}")).status == 200
    await wait_until(lambda: not api.engine.working, "the engine to stop")
    assert (await api.get(f"/v1/jobs/{job_id}")).status == 404
