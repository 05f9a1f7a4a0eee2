"""Calls, jobs and batches wait for an overloaded upstream, and none fails."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from shared.frames import DONE, frame
from tests.producer.api import Api
from tests.support.batches import jsonl
from tests.support.raw_upstream import Call, ask, upstream_api
from tests.support.wait_until import wait_until
from tests.worker.engines.openai.accents import HI
from worker import throttle

KEYS = "alice=sk-alice-1-0123456789,bob=sk-bob-12-0123456789"
ALICE = {"authorization": "Bearer sk-alice-1-0123456789"}
BOB = {"authorization": "Bearer sk-bob-12-0123456789"}
ANSWER = b"".join(map(frame, HI)) + DONE
REFUSED = {"error": {"message": "Rate limit reached for up.", "code": "rate_limit_exceeded"}}


@dataclass
class Busy:
    """Answers `capacity` requests at a time, each when `go_on` is set. Refuses all others when `decides` is set."""

    capacity: int
    status: str = "429 Too Many Requests"
    retry_after: str = "0.05"
    running: int = 0
    refused: int = 0
    started: list[str] = field(default_factory=list[str])
    asked: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    decides: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.decides.set()

    async def script(self, call: Call) -> None:
        self.asked += 1
        await self.decides.wait()
        if self.running >= self.capacity:
            self.refused += 1
            await call.answer(REFUSED, self.status, Retry_After=self.retry_after)
            return
        self.running += 1
        self.started.append(call.prompt)
        try:
            await self.go_on.wait()
            await asyncio.sleep(0.005)
        finally:
            self.running -= 1
        await call.answer(ANSWER)


class Bucket(Busy):
    """A token bucket that refills every few milliseconds; names the wait only in its error message."""

    async def script(self, call: Call) -> None:
        if self.capacity < 1:
            self.refused += 1
            await call.answer({"error": {"message": "Please try again in 20ms."}}, self.status)
            return
        self.capacity -= 1
        asyncio.get_running_loop().call_later(0.005, self._refill)
        await call.answer(ANSWER)

    def _refill(self) -> None:
        self.capacity += 1


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(throttle, "LAST_PAUSE", 0.1)


async def batch_of(api: Api, count: int, **headers: str) -> str:
    lines = [
        {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": ask(f"line {number}")}
        for number in range(count)
    ]
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", jsonl(lines), filename="in.jsonl")
    file = (await api.call("POST", "/v1/files", data=form, headers=headers)).json["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return (await api.post(asked, path="/v1/batches", **headers)).json["id"]


async def lines_of(api: Api, batch: str, **headers: str) -> list[Any]:
    async def over() -> Any:
        found = (await api.get(f"/v1/batches/{batch}", **headers)).json
        assert found["status"] in ("completed", "failed"), found
        return found

    done = await wait_until(over, "the batch to be over")
    assert done["error_file_id"] is None, done
    output = await api.get(f"/v1/files/{done['output_file_id']}/content", **headers)
    return [orjson.loads(each) for each in output.body.splitlines()]


SERVERS = {"429": lambda: Busy(4), "503": lambda: Busy(4, "503 Service Unavailable", ""), "bucket": lambda: Bucket(6)}


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_burst_and_a_batch_wait_instead_of_failing(kind: str, tmp_path: Path) -> None:
    server = SERVERS[kind]()
    server.go_on.set()
    async with upstream_api(server.script, files_dir=tmp_path, api_keys=KEYS) as (api, _):
        batch = await batch_of(api, 60, **ALICE)
        calls = [api.post(ask(f"call {number}", stream=number % 2 == 0), **ALICE) for number in range(30)]
        others = [api.post(ask(f"other {number}"), **BOB) for number in range(4)]
        answers = await asyncio.gather(*calls, *others)
        lines = await lines_of(api, batch, **ALICE)
        jobs = [job for key in (ALICE, BOB) for job in (await api.get("/v1/jobs?limit=100", **key)).json["data"]]

    assert [answer.status for answer in answers] == [200] * 34
    assert all(b"error" not in answer.body for answer in answers)
    assert [line["response"]["status_code"] for line in lines] == [200] * 60
    assert {(job["status"], job["attempts"]) for job in jobs} == {("completed", 1)}
    assert len(jobs) == 94
    assert server.refused


@pytest.fixture
async def full() -> AsyncGenerator[tuple[Api, Busy]]:
    """An upstream that refuses everything."""
    server = Busy(0)
    async with upstream_api(server.script, concurrency=4) as (api, _):
        yield api, server


async def refusals(server: Busy, count: int) -> None:
    await wait_until(lambda: server.refused >= count, f"{count} refusals")


async def test_a_job_that_waits_for_the_upstream_can_be_cancelled(full: tuple[Api, Busy]) -> None:
    api, server = full
    job = await api.submit(ask("wait"))
    await refusals(server, 2)
    await api.post({}, f"/v1/jobs/{job}/cancel")

    assert (await api.ended(job))["status"] == "cancelled"
    asked = server.refused
    server.capacity = 4
    server.go_on.set()
    assert (await api.post(ask("the next one"))).status == 200
    assert server.started == ["the next one"]
    assert server.refused <= asked + 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_ends_the_wait_with_the_upstreams_message(full: tuple[Api, Busy], stream: bool) -> None:
    api, _ = full
    answer = await api.post(ask("wait", stream=stream, deadline_seconds=0.3))
    assert answer.status == 504
    assert answer.error["code"] == "deadline_exceeded"
    assert "Rate limit reached for up." in answer.error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_overload_inside_an_answer_fails_after_three_tries(stream: bool) -> None:
    asked: list[dict[str, Any]] = []

    async def refuse(call: Call) -> None:
        asked.append(call.body)
        limit = {"error": {"message": "Rate limit reached, quota exceeded", "code": 429}}
        await call.answer(frame(limit) + DONE if stream else limit)

    async with upstream_api(refuse) as (api, _), asyncio.timeout(60):
        answer = await api.post(ask("now", stream=stream, tools=[], tool_choice="auto"))
    assert "Rate limit reached, quota exceeded" in answer.body.decode()
    assert len(asked) == 3
    assert all("tools" not in body and "tool_choice" not in body for body in asked)


async def test_overload_inside_an_answer_with_a_time_to_wait_is_waited_for() -> None:
    async def refuse_five_times(call: Call) -> None:
        limit = {"error": {"message": "Rate limit reached. Please try again in 20ms.", "code": 429}}
        await call.answer(limit if call.time_asked <= 5 else ANSWER)

    async with upstream_api(refuse_five_times) as (api, _):
        answer = await api.post(ask("now"))
        job = await api.job(answer.json["id"])
    assert answer.status == 200
    assert job["attempts"] == 1


async def test_a_drain_requeues_waiting_jobs_without_counting_a_try() -> None:
    server = Busy(0)
    async with upstream_api(server.script, concurrency=4, drain=0) as (api, worker):
        jobs = [await api.submit(ask(f"wait {number}")) for number in range(6)]
        await refusals(server, 2)
        await worker.drain()
        records = [await api.job(job) for job in jobs]
        assert {record["status"] for record in records} == {"queued"}
        server.capacity = 4
        server.go_on.set()
        await worker.start()
        records = [await api.ended(job) for job in jobs]
    assert {record["status"] for record in records} == {"completed"}
    assert {record["tries"] for record in records if "tries" in record} <= {0}


async def test_higher_tiers_are_sent_first(full: tuple[Api, Busy]) -> None:
    """Also before jobs that have waited longer and use every slot."""
    api, server = full
    server.decides.clear()
    low = [await api.submit(ask(f"flex {number}", service_tier="flex")) for number in range(3)]
    low += [await api.submit(ask("default"))]
    await wait_until(lambda: server.asked == 4, "all slots to be taken")
    server.decides.set()
    await refusals(server, 5)
    high = await api.submit(ask("priority", service_tier="priority"))
    await wait_until(lambda: has_begun(api, high), "a flex job to make room")
    server.capacity = 1
    server.go_on.set()

    for job in (high, *low):
        assert (await api.ended(job))["status"] == "completed"
    assert "priority" in server.started[:2], server.started


async def has_begun(api: Api, job: str) -> bool:
    return (await api.job(job))["status"] == "in_progress"
