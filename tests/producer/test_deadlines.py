"""A deadline includes the wait in the queue; a job that has not started by then is never run."""

import pytest

from tests.producer.api import Answer, Api, ask, embedded_api
from tests.support.wait_until import wait_until

NONSENSE = ["soon", "-1", "0", "nan", "inf", "1e300", ""]
HOW = ["body", "Cancel-After", "x-stainless-read-timeout"]
LONG_ENOUGH_TO_BEGIN = [0.3, 1.0, 5.0, 20.0]
"""Seconds: a deadline within which the engine has begun, tried one after the other; how long it takes is the machine's
affair.
"""


@pytest.fixture(params=["embedded", "distributed"])
def any_api(request: pytest.FixtureRequest) -> Api:
    return request.getfixturevalue({"embedded": "api", "distributed": "distributed_api"}[request.param])


async def post_within(api: Api, seconds: float, how: str, prompt: str = "ttft=60000", **fields: object) -> Answer:
    if how == "body":
        return await api.post(ask(prompt, deadline_seconds=seconds, **fields))
    return await api.call("POST", "/v1/chat/completions", json=ask(prompt, **fields), headers={how: str(seconds)})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", HOW)
async def test_passing_in_the_queue_is_a_timeout(idle_api: Api, how: str, stream: bool) -> None:
    answer = await post_within(idle_api, 0.1, how, stream=stream)
    assert answer.status == 504
    assert (answer.error["type"], answer.error["code"]) == ("timeout_error", "deadline_exceeded_in_queue")


async def test_an_expired_job_is_not_sent_to_the_engine(idle_api: Api) -> None:
    await post_within(idle_api, 0.1, "body", "late")
    async with idle_api.worker():
        await idle_api.post(ask("in time"))
    assert [request["messages"][0]["content"] for request in idle_api.engine.asked] == ["in time"]


async def test_a_job_that_was_late_has_expired(idle_api: Api) -> None:
    job = await idle_api.ended(await idle_api.submit(ask(deadline_seconds=0.1)))
    assert (job["status"], job["attempts"]) == ("expired", 0)
    assert job["error"]["code"] == "deadline_exceeded_in_queue"
    assert (await idle_api.get(job["urls"]["result"])).status == 504


async def test_passing_while_it_runs_stops_the_engine(any_api: Api) -> None:
    for seconds in LONG_ENOUGH_TO_BEGIN:
        answer = await post_within(any_api, seconds, "body")
        if any_api.engine.asked:
            break
    assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
    await wait_until(lambda: not any_api.engine.working)


async def test_a_deadline_during_a_stream_is_an_error_in_the_stream(any_api: Api) -> None:
    for seconds in LONG_ENOUGH_TO_BEGIN:
        answer = await post_within(any_api, seconds, "body", "itl=20", stream=True, max_tokens=10_000)
        if " t001" in answer.body.decode():
            break
    assert answer.status == 200
    assert answer.frames[-1]["error"]["code"] == "deadline_exceeded"


async def test_an_expired_job_keeps_its_partial_result(api: Api) -> None:
    for seconds in LONG_ENOUGH_TO_BEGIN:
        job = await api.ended(await api.submit(ask("seed=7 itl=60000", deadline_seconds=seconds)))
        assert job["status"] == "expired"
        if job["result"] is not None:
            break
    assert job["result"]["choices"][0]["message"]["content"] == " t007"


async def test_the_bodys_deadline_overrides_the_header(idle_api: Api) -> None:
    answer = await idle_api.post(ask(deadline_seconds=600, background=True), Cancel_After="5")
    assert answer.json["deadline_at"] - answer.json["created_at"] in (600, 601)


async def test_the_sdks_timeout_is_not_a_background_jobs_deadline(idle_api: Api) -> None:
    job_id = await idle_api.submit(ask(), **{"x-stainless-read-timeout": "5"})
    job = await idle_api.job(job_id)
    assert job["deadline_at"] - job["created_at"] == idle_api.settings.job_deadline


async def test_the_default_deadline_is_the_operators() -> None:
    async with embedded_api(worker=False, job_deadline=0.1) as api:
        assert (await api.post(ask())).status == 504


async def test_an_invalid_cancel_after_is_refused(api: Api) -> None:
    for seconds in NONSENSE:
        answer = await api.post(ask(), Cancel_After=seconds)
        assert (answer.status, answer.error["param"]) == (400, "Cancel-After"), seconds


async def test_an_invalid_sdk_timeout_is_ignored(api: Api) -> None:
    for seconds in NONSENSE:
        assert (await api.post(ask(), **{"x-stainless-read-timeout": seconds})).status == 200, seconds
