"""A job's events: numbered frames, for any number of readers, from any frame on."""

import asyncio
import re

import pytest

from tests.producer.api import Answer, Api, ask, embedded_api
from tests.support.wait_until import wait_until

FRAMES = 6
"""Role, three words, finish, [DONE]."""


@pytest.fixture
async def streamed(api: Api) -> str:
    """A finished streamed call whose events can still be read."""
    return (await api.post(ask(stream=True))).headers["x-job-id"]


async def events(api: Api, job_id: str, query: str = "", **headers: str) -> Answer:
    return await api.get(f"/v1/jobs/{job_id}/events{query}", **headers)


def numbers(answer: Answer) -> list[int]:
    """Returns the frames' ids; fails the test for a frame with anything but id and data."""
    assert re.fullmatch(rb"(id: \d+\ndata: [^\n]+\n\n)*", answer.body), answer.body
    return [int(number) for number in re.findall(rb"^id: (\d+)$", answer.body, re.MULTILINE)]


async def test_events_are_the_streams_frames_with_numbers(api: Api) -> None:
    stream = await api.post(ask(stream=True))
    answer = await events(api, stream.headers["x-job-id"])
    assert numbers(answer) == list(range(FRAMES))
    assert re.sub(rb"id: \d+\n", b"", answer.body) == stream.body
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_resuming_sends_the_frames_after_the_given_one(api: Api, streamed: str) -> None:
    for after in range(-1, FRAMES + 2):
        answer = await events(api, streamed, f"?starting_after={after}")
        assert numbers(answer) == list(range(after + 1, FRAMES))


async def test_a_browsers_reconnect_resumes_too(api: Api, streamed: str) -> None:
    assert numbers(await events(api, streamed, **{"last-event-id": "2"})) == [3, 4, 5]


async def test_the_query_overrides_last_event_id(api: Api, streamed: str) -> None:
    answer = await events(api, streamed, "?starting_after=3", **{"last-event-id": "0"})
    assert numbers(answer) == [4, 5]


async def test_an_invalid_last_event_id_is_refused(api: Api, streamed: str) -> None:
    for number in ("x", "-2", "9" * 30, "1.5", "²"):
        answer = await events(api, streamed, **{"last-event-id": number})
        assert (answer.status, answer.error["param"]) == (400, "Last-Event-ID"), number


async def test_readers_follow_a_job_that_still_runs_and_see_the_same(api: Api) -> None:
    job_id = await api.submit(ask("seed=7 itl=20", max_tokens=20))
    readers = [asyncio.create_task(events(api, job_id)) for _ in range(3)]
    answers = await asyncio.gather(*readers)
    assert numbers(answers[0]) == list(range(23))
    assert answers[0].body == answers[1].body == answers[2].body == (await events(api, job_id)).body


async def test_a_disconnected_reader_does_not_cancel_the_job(api: Api) -> None:
    job_id = await api.submit(ask("seed=7 itl=20", max_tokens=20))
    request = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: ignite\r\n\r\n".encode()
    async with api.connected(request) as reader:
        await reader.readuntil(b" t009")
    assert (await api.ended(job_id))["status"] == "completed"


async def test_a_unary_completion_has_the_same_events_every_time(api: Api) -> None:
    job_id = (await api.post(ask(n=2))).json["id"]
    answer = await events(api, job_id)
    assert answer.text == " t007 t008 t009"
    assert numbers(answer) == list(range(7))
    assert answer.body.endswith(b"id: 6\ndata: [DONE]\n\n")
    assert numbers(await events(api, job_id, "?starting_after=4")) == [5, 6]
    assert (await events(api, job_id)).body == answer.body


async def test_the_events_of_a_failed_job_end_with_its_error(api: Api) -> None:
    job_id = await api.submit(ask("seed=7 break"))
    answer = await events(api, job_id)
    assert numbers(answer) == [0, 1, 2, 3]
    assert answer.frames[-1]["error"]["code"] == "attempts_exhausted"


async def test_the_events_of_a_cancelled_call_end_with_its_error(idle_api: Api) -> None:
    job_id = await idle_api.submit(ask())
    reading = asyncio.create_task(events(idle_api, job_id))
    await idle_api.call("POST", f"/v1/jobs/{job_id}/cancel")
    assert (await reading).frames[-1]["error"]["code"] == "cancelled"


async def test_keepalives_are_comments_of_one_line() -> None:
    async with embedded_api(worker=False, keepalive=0.05) as api:
        job_id = await api.submit(ask())
        reading = asyncio.create_task(events(api, job_id))
        await wait_until(lambda: api.server.server_state.connections)
        async with api.connected(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as reader:
            await reader.readuntil(b": queued position=1 workers=0\n")
        async with api.worker():
            answer = await reading
    comments, frames = answer.body.split(b"id: 0\n", 1)
    assert set(comments.splitlines()) <= {b": queued position=1 workers=0", b": queued position=1", b": running"}
    assert len(re.findall(rb"data: ", frames)) == FRAMES


async def test_the_event_readers_of_a_tenant_are_limited() -> None:
    async with embedded_api(worker=False, tenant_reader_limit=2) as api:
        job_id = await api.submit(ask())
        request = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        async with api.connected(request) as first, api.connected(request) as second:
            for reader in (first, second):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            refused = await events(api, job_id)
            assert (refused.status, refused.error["code"]) == (429, "too_many_readers")

        async def read_again() -> bool:
            async with api.connected(request) as reader:
                return (await reader.readline()).startswith(b"HTTP/1.1 200")

        await wait_until(read_again, "a place to be free again")
