"""What a waiting client gets: first nothing, then comments."""

import asyncio
import json

import pytest

from producer.auth.keyring import LOCAL_TENANT, Principal
from producer.jobs.submission import Submission
from producer.jobs.waiting_call import waiting
from shared.errors import BackendUnavailable
from shared.schema import check_request, parse_object
from tests.producer.api import COMPLETIONS, Api, ask, embedded_api, raw_post
from tests.support.wait_until import wait_until


async def test_the_status_line_waits_for_the_first_frame(api: Api) -> None:
    """So a refusal can still be a 4xx."""
    api.engine.gate.clear()
    answer = asyncio.create_task(api.post(ask("refuse", stream=True)))
    await wait_until(lambda: api.engine.working)
    assert not answer.done()
    api.engine.gate.set()
    assert (await answer).status == 400


async def test_a_waiting_stream_sends_comments() -> None:
    async with (
        embedded_api(worker=False, keepalive=0.05) as api,
        api.connected(raw_post(ask(stream=True))) as reader,
    ):
        assert b"200 OK" in await reader.readline()
        assert await reader.readuntil(b": queued position=1 workers=0\n")
        async with api.worker():
            rest = await reader.readuntil(b"data: [DONE]\n\n")
    assert rest.count(b"data: ") == 6


async def test_comments_have_the_queue_position() -> None:
    async with embedded_api(worker=False, keepalive=0.05) as api:
        await api.submit(ask())
        async with api.connected(raw_post(ask(stream=True))) as reader:
            assert await reader.readuntil(b": queued position=2 workers=0\n")


async def test_a_running_stream_without_frames_sends_comments() -> None:
    async with embedded_api(keepalive=0.05) as api:
        api.engine.gate.clear()
        async with api.connected(raw_post(ask(stream=True))) as reader:
            assert await reader.readuntil(b": running\n")
            assert await reader.readuntil(b": running\n")
            api.engine.gate.set()
            assert await reader.readuntil(b"data: [DONE]\n\n")


async def test_after_the_first_comment_a_refusal_is_an_error_frame() -> None:
    async with embedded_api(keepalive=0.05) as api:
        api.engine.gate.clear()
        async with api.http.post(COMPLETIONS, json=ask("refuse", stream=True)) as response:
            api.engine.gate.set()
            body = await response.read()
    assert body.startswith(b": running\n")
    assert b'data: {"error":{' in body
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_outlives_a_wait_for_its_worker(idle_api: Api, stream: bool) -> None:
    answer = asyncio.create_task(idle_api.post(ask(stream=stream)))
    await wait_until(idle_api.queued, "the call to wait")
    async with idle_api.worker():
        assert b"t009" in (await answer).body


async def test_a_call_refused_after_its_submission_leaves_no_job(idle_api: Api) -> None:
    """The client gets Retry-After and creates another job."""
    request = check_request(parse_object(json.dumps(ask()).encode()))
    submission = Submission(Principal(LOCAL_TENANT), b"{}", request, mode="unary")
    with pytest.raises(BackendUnavailable):
        async with waiting(idle_api.service, lambda: idle_api.service.call(submission), "unary") as client:
            raise BackendUnavailable("The store has been away for too long.")
    assert (await idle_api.ended(client.job.id))["status"] == "cancelled"
