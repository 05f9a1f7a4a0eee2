"""Jobs: submitted, polled, fetched, cancelled and listed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.errors import BackendUnavailable
from tests.producer.api import COMPLETIONS, Answer, Api, ask, embedded_api
from tests.support.wait_until import wait_until


@pytest.fixture
async def waiting(idle_api: Api) -> str:
    """A job whose model has no worker."""
    return await idle_api.submit(ask())


@pytest.fixture
async def running(api: Api) -> AsyncIterator[str]:
    """A running job that has generated ` t007` and waits."""
    job_id = await api.submit(ask("seed=7 itl=60000"))
    await wait_until(lambda: has_begun(api, job_id))
    yield job_id


async def has_begun(api: Api, job_id: str) -> bool:
    return (await api.job(job_id))["progress"]["chunks"] == 2


# ── asking for one ──


@pytest.mark.parametrize("how", ["header", "field", "both"])
async def test_a_job_is_requested_by_header_or_field(api: Api, how: str) -> None:
    headers = {} if how == "field" else {"prefer": "respond-async"}
    answer = await api.post(ask(**({} if how == "header" else {"background": True})), **headers)
    assert answer.status == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json['id']}"
    assert answer.headers.get("preference-applied") == (None if how == "field" else "respond-async")
    assert answer.headers["x-job-id"] == answer.json["id"]


async def test_an_accepted_job_is_answered_202_although_the_store_fails(
    idle_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise BackendUnavailable("The store is away.")

    monkeypatch.setattr(idle_api.backend.scheduler, "position", away)
    assert (await idle_api.post(ask(background=True))).status == 202
    monkeypatch.setattr(idle_api.backend.store, "get", away)
    answer = await idle_api.post(ask(), prefer="wait=5")
    assert (answer.status, answer.json["status"]) == (202, "queued")


async def test_a_new_jobs_object(idle_api: Api) -> None:
    answer = await idle_api.post(ask(service_tier="flex", metadata={"team": "a"}, background=True))
    job = answer.json
    job_id, created, deadline = job.pop("id"), job.pop("created_at"), job.pop("deadline_at")
    assert job_id.startswith("chatcmpl-")
    assert deadline - created == idle_api.settings.job_deadline
    assert job == {
        "object": "chat.completion.job",
        "endpoint": "chat.completions",
        "status": "queued",
        "model": "simulated",
        "service_tier": "flex",
        "started_at": None,
        "first_token_at": None,
        "finished_at": None,
        "expires_at": None,
        "queue": {"position": 1, "eta_seconds": None, "workers": 0},
        "progress": {"chunks": 0, "completion_tokens": 0},
        "attempts": 0,
        "result": None,
        "usage": None,
        "error": None,
        "metadata": {"team": "a"},
        "urls": {
            "self": f"/v1/jobs/{job_id}",
            "result": f"/v1/jobs/{job_id}/result",
            "events": f"/v1/jobs/{job_id}/events",
            "cancel": f"/v1/jobs/{job_id}/cancel",
        },
    }


async def test_prefer_wait_returns_a_completion_that_is_ready_in_time(api: Api) -> None:
    answer = await api.post(ask(), prefer="wait=10")
    assert answer.status == 200
    assert answer.json["object"] == "chat.completion"


async def test_prefer_wait_returns_the_job_otherwise(idle_api: Api) -> None:
    answer = await idle_api.post(ask(), prefer="respond-async, wait=0.05")
    assert (answer.status, answer.json["status"]) == (202, "queued")


# ── polling ──


async def test_a_finished_jobs_object(api: Api) -> None:
    job = await api.ended(await api.submit(ask()))
    assert job["status"] == "completed"
    assert job["created_at"] <= job["started_at"] <= job["first_token_at"] <= job["finished_at"] < job["expires_at"]
    assert job["progress"] == {"chunks": 6, "completion_tokens": 3}
    assert job["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    assert (job["attempts"], job["queue"], job["error"]) == (1, None, None)
    assert job["result"]["id"] == job["id"]
    assert job["result"]["choices"][0]["message"]["content"] == " t007 t008 t009"


async def test_a_poll_is_held_until_the_status_changes(idle_api: Api, waiting: str) -> None:
    poll = await held_poll(idle_api, waiting)
    idle_api.engine.gate.clear()
    async with idle_api.worker():
        assert (await poll)["status"] == "in_progress"
        poll = await held_poll(idle_api, waiting)
        idle_api.engine.gate.set()
        assert (await poll)["status"] == "completed"


async def held_poll(api: Api, job_id: str) -> asyncio.Task[Any]:
    """Starts a waiting poll that has read the job's current state."""
    poll = asyncio.create_task(api.job(job_id, wait=30))
    await wait_until(lambda: api.server.server_state.tasks, "the poll to arrive")
    await api.job(job_id)
    assert not poll.done()
    return poll


async def test_a_poll_is_not_held_longer_than_asked(idle_api: Api, waiting: str) -> None:
    assert (await idle_api.job(waiting, wait=0.05))["status"] == "queued"


async def test_polls_have_retry_after_and_etag(idle_api: Api, waiting: str) -> None:
    first = await idle_api.get(f"/v1/jobs/{waiting}")
    assert first.headers["retry-after"] == "1"
    again = await idle_api.get(f"/v1/jobs/{waiting}", **{"if-none-match": first.headers["etag"]})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    async with idle_api.worker():
        await idle_api.ended(waiting)
    last = await idle_api.get(f"/v1/jobs/{waiting}", **{"if-none-match": first.headers["etag"]})
    assert (last.status, "retry-after" in last.headers) == (200, False)


async def test_a_new_queue_position_changes_the_etag(idle_api: Api, waiting: str) -> None:
    second = await idle_api.submit(ask())
    before = await idle_api.get(f"/v1/jobs/{second}")
    assert before.json["queue"]["position"] == 2
    await idle_api.call("POST", f"/v1/jobs/{waiting}/cancel")
    after = await idle_api.get(f"/v1/jobs/{second}", **{"if-none-match": before.headers["etag"]})
    assert (after.status, after.json["queue"]["position"]) == (200, 1)


# ── the result ──


async def test_the_result_is_the_completion_verbatim(api: Api) -> None:
    job = await api.ended(await api.submit(ask()))
    answer = await api.get(job["urls"]["result"])
    assert (answer.status, answer.json) == (200, job["result"])


async def test_before_the_end_there_is_no_result(idle_api: Api, waiting: str) -> None:
    answer = await idle_api.get(f"/v1/jobs/{waiting}/result")
    assert (answer.status, answer.error["code"]) == (409, "not_finished")
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "false")


async def test_the_result_of_a_failed_job_is_its_error(api: Api) -> None:
    job = await api.ended(await api.submit(ask("refuse")))
    answer = await api.get(job["urls"]["result"])
    assert (job["status"], job["result"]) == ("failed", None)
    assert answer.status == 400
    assert answer.error == job["error"]


# ── trying again ──


async def test_a_failed_job_is_tried_again_under_its_id(api: Api) -> None:
    job_id = await api.submit(ask("refuse"))
    await api.ended(job_id)

    again = await api.post(None, f"/v1/jobs/{job_id}/retry")

    assert (again.status, again.json["id"], again.json["error"]) == (200, job_id, None)
    second = await api.ended(job_id)
    assert (second["status"], second["attempts"]) == ("failed", 2), "the engine has refused it again"


async def test_only_a_failed_job_is_tried_again(api: Api, running: str) -> None:
    left_alone = await api.post(None, f"/v1/jobs/{running}/retry")
    assert (left_alone.status, left_alone.json["attempts"]) == (200, 1)
    completed = await api.ended(await api.submit(ask()))
    refused = await api.post(None, f"/v1/jobs/{completed['id']}/retry")
    assert (refused.status, refused.error["code"]) == (409, "not_failed")
    assert refused.headers["x-should-retry"] == "false"


async def test_jobs_are_found_by_their_errors_code(api: Api) -> None:
    failed = await api.ended(await api.submit(ask("refuse")))
    await api.ended(await api.submit(ask()))
    found = await api.jobs("code=context_length_exceeded")
    assert [job["id"] for job in found] == [failed["id"]]
    assert await api.jobs("code=engine_error") == []


# ── cancelling ──


async def test_a_queued_job_is_cancelled_at_once_and_never_runs(idle_api: Api, waiting: str) -> None:
    answer = await cancel(idle_api, waiting)
    assert (answer.status, answer.json["status"], answer.json["error"]["code"]) == (200, "cancelled", "cancelled")
    async with idle_api.worker():
        await idle_api.post(ask("seed=2"))
    assert [request["messages"][0]["content"] for request in idle_api.engine.asked] == ["seed=2"]


async def test_a_cancelled_running_job_keeps_its_partial_result(api: Api, running: str) -> None:
    job = (await cancel(api, running)).json
    assert job["status"] == "cancelled"
    assert job["result"]["choices"][0]["message"]["content"] == " t007"
    assert not api.engine.working


async def test_cancelling_is_idempotent(api: Api, running: str) -> None:
    once, twice = await cancel(api, running), await cancel(api, running)
    assert once.json == twice.json


async def test_cancelling_an_ended_job_changes_nothing(api: Api) -> None:
    job = await api.ended(await api.submit(ask()))
    assert (await cancel(api, job["id"])).json == job


async def test_the_result_of_a_cancelled_job_is_a_conflict(idle_api: Api, waiting: str) -> None:
    await cancel(idle_api, waiting)
    answer = await idle_api.get(f"/v1/jobs/{waiting}/result")
    assert (answer.status, answer.error["code"]) == (409, "cancelled")


async def test_a_waiting_call_gets_the_cancellation(api: Api) -> None:
    call = asyncio.create_task(api.post(ask("ttft=60000")))
    (job,) = await wait_until(api.jobs, "the job")
    await cancel(api, job["id"])
    assert ((await call).status, (await call).error["code"]) == (409, "cancelled")


async def cancel(api: Api, job_id: str) -> Answer:
    return await api.call("POST", f"/v1/jobs/{job_id}/cancel")


# ── listing ──


async def test_jobs_are_listed_newest_first_in_pages(idle_api: Api) -> None:
    ids = [await idle_api.submit(ask()) for _ in range(5)]
    first = (await idle_api.get("/v1/jobs?limit=2")).json
    rest = (await idle_api.get(f"/v1/jobs?limit=10&after={first['last_id']}")).json
    assert [job["id"] for job in first["data"] + rest["data"]] == sorted(ids, reverse=True)
    assert (first["object"], first["first_id"], first["has_more"], rest["has_more"]) == ("list", max(ids), True, False)


async def test_an_empty_list(api: Api) -> None:
    expected = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert (await api.get("/v1/jobs")).json == expected


async def test_lists_are_filtered() -> None:
    async with embedded_api(worker=False, models="simulated,other") as api:
        one = await api.submit(ask(metadata={"team": "a", "run": "1"}))
        two = await api.submit(ask(metadata={"team": "b"}) | {"model": "other"})
        three = await api.submit(ask(metadata={"team": "a", "run": "2"}))
        await cancel(api, three)
        found = {query: await ids_of(api, query) for query in QUERIES}
    assert list(found.values()) == [[one], [two], [three, one], [one], [], [three]]


QUERIES = (
    "status=queued&model=simulated",
    "model=other",
    "metadata[team]=a",
    "metadata[team]=a&metadata[run]=1",
    "metadata[team]=c",
    "status=cancelled",
)


async def ids_of(api: Api, query: str) -> list[str]:
    return [job["id"] for job in await api.jobs(query)]


async def test_an_invalid_query_parameter_is_named(api: Api) -> None:
    too_many_pairs = "&".join(f"metadata[k{number}]=v" for number in range(17))
    for query in ("limit=abc", "limit=0", "limit=1e3", "status=done", "metadata=a", "metadata[]=a", too_many_pairs):
        answer = await api.get(f"/v1/jobs?{query}")
        assert answer.status == 400, query
        assert query.startswith(answer.error["param"])


async def test_an_unknown_job_is_404(api: Api) -> None:
    for path in ("", "/result", "/events", "/cancel"):
        answer = await api.call("POST" if path == "/cancel" else "GET", f"/v1/jobs/chatcmpl-0{path}")
        assert (answer.status, answer.error["code"]) == (404, "not_found"), path


async def test_an_expired_job_is_410() -> None:
    async with embedded_api(job_retention=0.05) as api:
        job_id = await api.submit(ask())
        answer = await wait_until(lambda: gone(api, job_id))
        assert answer.error["code"] == "result_expired"


async def gone(api: Api, job_id: str) -> Answer:
    answer = await api.get(f"/v1/jobs/{job_id}/result")
    assert answer.status == 410
    return answer


async def test_a_request_too_large_for_a_message_reaches_the_engine(api: Api) -> None:
    prompt = "x" * 600_000 + " seed=7"
    assert (await api.post(ask(prompt))).json["choices"][0]["message"]["content"] == " t007 t008 t009"
    assert (await api.call("POST", COMPLETIONS, json=ask(prompt, stream=True))).text == " t007 t008 t009"
    assert api.engine.asked[0]["messages"][0]["content"] == prompt
