"""Limits of keys: refusals, headers, and the release of ended jobs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest
import pytest_asyncio
from grpc import StatusCode

from producer.admission.rate_limits import CHECKED_JOBS, CREATION_GRACE, KeyLimits, duration
from producer.auth.keyring import Principal
from producer.auth.keys import KeyRepository
from shared.backends.distributed import open_distributed
from shared.backends.embedded.backend import open_embedded
from shared.errors import RateLimited
from shared.job import Job, Tier, new_job_id
from shared.limits import Limits
from tests.producer.api import MODEL, Answer, Api, ask, embedded_api, running_api, settings_for_tests
from tests.support.grpc_client import grpc_client
from tests.support.grpc_client import refused as refused_call
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

RATES = ("limit", "remaining", "reset")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited_api() -> AsyncIterator[Api]:
    async with embedded_api(api_keys="root=secret-of-root-4711") as api:
        yield api


async def key(api: Api, name: str, **limits: Any) -> dict[str, str]:
    secret, _ = await KeyRepository(api.backend.documents).create(name, limits=Limits(**limits))
    return {"authorization": f"Bearer {secret}"}


def rates(answer: Answer, name: str) -> tuple[str | None, ...]:
    return tuple(answer.headers.get(f"x-ratelimit-{rate}-{name}") for rate in RATES)


def refused(answer: Answer) -> str:
    error = answer.error
    assert (answer.status, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    return error["message"]


async def test_requests_a_minute(limited_api: Api) -> None:
    alice = await key(limited_api, "requests", requests_per_minute=3)
    unary, stream, job = [await limited_api.post(ask(**body), **alice) for body in ({}, STREAM, BACKGROUND)]
    assert [unary.status, stream.status, job.status] == [200, 200, 202]
    assert rates(unary, "requests") == ("3", "2", "20s")
    assert rates(stream, "requests")[:2] == ("3", "1")
    assert rates(job, "requests")[:2] == ("3", "0")
    assert rates(unary, "tokens") == (None, None, None)
    answer = await limited_api.post(ask(), **alice)
    assert "3 a minute" in refused(answer)
    assert 1 <= int(answer.headers["retry-after"]) <= 20
    assert rates(answer, "requests")[:2] == ("3", "0")
    poll = await limited_api.get(f"/v1/jobs/{job.json['id']}", **alice)
    assert (poll.status, rates(poll, "requests")) == (200, (None, None, None))


STREAM = {"stream": True}
BACKGROUND = {"background": True}


async def test_tokens_per_minute_are_estimated_and_corrected(limited_api: Api) -> None:
    """The estimate of an unlimited answer is 256 tokens; the actual answer has 3."""
    alice = await key(limited_api, "tokens", tokens_per_minute=320)
    first = await limited_api.post(ask(), **alice)
    limit, left, _ = rates(first, "tokens")
    assert limit == "320"
    assert int(left or 0) < 320 - 256
    second = await limited_api.post(ask(), **alice)
    assert second.status == 200
    assert int(rates(second, "tokens")[1] or 0) > 0
    limited_api.engine.gate.clear()
    waiting = asyncio.create_task(limited_api.post(ask(), **alice))
    try:
        await wait_until(lambda: limited_api.engine.working == 1, "the call to run")
        assert "320 a minute" in refused(await limited_api.post(ask(), **alice))
    finally:
        limited_api.engine.gate.set()
    assert (await waiting).status == 200


async def test_a_request_above_the_whole_limit_is_not_retried(limited_api: Api) -> None:
    alice = await key(limited_api, "never", tokens_per_minute=100)
    answer = await limited_api.post(ask(max_tokens=200), **alice)
    assert "limit is 100 a minute" in refused(answer)
    assert answer.headers["x-should-retry"] == "false"
    assert (await limited_api.post(ask(max_tokens=20), **alice)).status == 200


async def test_open_jobs_at_once(limited_api: Api) -> None:
    alice = await key(limited_api, "concurrency", concurrency=2)
    limited_api.engine.gate.clear()
    try:
        jobs = [await limited_api.submit(ask(), **alice) for _ in range(2)]
        assert "2 at once" in refused(await limited_api.post(ask(**BACKGROUND), **alice))
        await limited_api.call("POST", f"/v1/jobs/{jobs[0]}/cancel", headers=alice)
        await wait_until(lambda: accepted(limited_api, alice), "the cancelled job's room")
    finally:
        limited_api.engine.gate.set()


async def accepted(api: Api, headers: dict[str, str]) -> bool:
    return (await api.post(ask(**BACKGROUND), **headers)).status == 202


@pytest.mark.parametrize("body", [{}, STREAM])
async def test_consecutive_calls_do_not_exceed_one_open_job(limited_api: Api, body: dict[str, Any]) -> None:
    alice = await key(limited_api, f"sequence-{len(body)}", concurrency=1)
    for _ in range(30):
        assert (await limited_api.post(ask(**body), **alice)).status == 200


async def test_an_ended_background_job_frees_its_slot(limited_api: Api) -> None:
    alice = await key(limited_api, "background", concurrency=1)
    for _ in range(3):
        job = await limited_api.submit(ask(), **alice)

        async def over(job: str = job) -> bool:
            return (await limited_api.get(f"/v1/jobs/{job}", **alice)).json["status"] == "completed"

        await wait_until(over, "the job's end")


async def test_an_ended_job_is_found_among_many_open_ones(limited_api: Api) -> None:
    """There are more open jobs than one check reads, and the ended one is the last."""
    alice = await key(limited_api, "many", concurrency=CHECKED_JOBS + 20)
    limited_api.engine.gate.clear()
    try:
        for _ in range(CHECKED_JOBS + 19):
            await limited_api.submit(ask(deadline_seconds=600.0), **alice)
        job = await limited_api.submit(ask(deadline_seconds=3600.0), **alice)
        refused(await limited_api.post(ask(**BACKGROUND), **alice))
        cancelled = await limited_api.call("POST", f"/v1/jobs/{job}/cancel", headers=alice)
        assert cancelled.json["status"] == "cancelled"
        assert await accepted(limited_api, alice)
    finally:
        limited_api.engine.gate.set()


async def test_ended_jobs_of_dead_processes_are_found() -> None:
    limits = Limits(concurrency=3 * CHECKED_JOBS)
    async with open_embedded(None) as backend:
        for number in range(3 * CHECKED_JOBS):
            left = number == 3 * CHECKED_JOBS - 1
            job = Job(new_job_id(time.time() - (CREATION_GRACE + 1)), "alice", MODEL, Tier.DEFAULT, "unary", 0, 0, 60)
            job.deadline_at = time.time() + 600 + number
            if not left:
                await backend.store.create(job, body=b"{}")
            await backend.limiter.take("key_1", limits, job.id, tokens=0, until=job.deadline_at)
        meter = KeyLimits(backend.limiter, backend.store).meter(Principal("alice", "key_1", limits))
        assert meter is not None

        async def taken() -> bool:
            try:
                await meter.take(a_job())
            except RateLimited:
                return False
            return True

        await wait_until(taken, "the last of them to be looked at", within=20)


async def test_a_repeated_request_is_counted_once(limited_api: Api) -> None:
    alice = await key(limited_api, "idempotent", concurrency=1, requests_per_minute=2)
    limited_api.engine.gate.clear()
    try:
        calls = [asyncio.create_task(limited_api.post(ask(), idempotency_key="once", **alice)) for _ in range(3)]
        await wait_until(lambda: limited_api.engine.working == 1, "the job to run")
        refused(await limited_api.post(ask(), idempotency_key="other", **alice))
    finally:
        limited_api.engine.gate.set()
    answers = [await call for call in calls]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert len({answer.json["id"] for answer in answers}) == 1


async def test_requests_refused_by_the_queue_are_not_counted() -> None:
    async with embedded_api(worker=False, queue_limit=1, api_keys="root=secret-of-root-4711") as api:
        alice = await key(api, "alice", requests_per_minute=2, concurrency=2)
        await api.submit(ask(), **alice)
        for _ in range(4):
            assert (await api.post(ask(**BACKGROUND), **alice)).error["code"] == "queue_full"


async def test_a_key_without_limits_gets_no_rate_limit_headers(limited_api: Api) -> None:
    alice = await key(limited_api, "unlimited")
    answer = await limited_api.post(ask(), **alice)
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


async def test_limits_apply_over_all_replicas(amqp_url: str, redis_url: str) -> None:
    settings = settings_for_tests(amqp_url=amqp_url, redis_url=redis_url, api_keys="root=secret-of-root-4711")
    async with (
        open_distributed(amqp_url, redis_url) as one,
        open_distributed(amqp_url, redis_url) as other,
        running_api(one, settings) as first,
        running_api(other, settings, worker=False) as second,
    ):
        alice = await key(first, "alice", concurrency=2)
        first.engine.gate.clear()
        jobs = [await api.submit(ask(), **alice) for api in (first, second)]
        for api in (first, second):
            refused(await api.post(ask(**BACKGROUND), **alice))
        first.engine.gate.set()
        await wait_until(lambda: accepted(second, alice), f"{jobs} to be found over")


async def test_the_slot_of_a_dead_api_is_freed_but_not_a_new_ones() -> None:
    limits = Limits(concurrency=1)
    async with open_embedded(None) as backend:
        for age, room in ((0.0, False), (CREATION_GRACE + 1, True)):
            principal = Principal("alice", f"key_{age}", limits)
            unwritten = new_job_id(time.time() - age)
            await backend.limiter.take(f"key_{age}", limits, unwritten, tokens=0, until=time.time() + 3600)
            meter = KeyLimits(backend.limiter, backend.store).meter(principal)
            assert meter is not None
            with nullcontext() if room else pytest.raises(RateLimited):
                await meter.take(a_job())


def a_job() -> Job:
    now = time.time()
    return Job(new_job_id(now), "alice", MODEL, Tier.DEFAULT, "unary", now, now + 60, 60)


async def test_limits_apply_over_grpc() -> None:
    async with (
        embedded_api(grpc=True, api_keys="root=secret-of-root-4711") as api,
        grpc_client(api.grpc_address) as client,
    ):
        alice = await key(api, "alice", requests_per_minute=1)
        call = client.unary(ask(), metadata=alice)
        told = dict(await call.initial_metadata())
        await call
        assert told["x-ratelimit-remaining-requests"] == "0"
        refusal = await refused_call(client.stream(ask(), metadata=alice))
        assert (refusal.code, refusal.error["code"]) == (StatusCode.RESOURCE_EXHAUSTED, "rate_limit_exceeded")
        assert refusal.retry_after is not None
        assert refusal.retry_after <= 60
        assert (await client.answer(ask(), metadata={"authorization": "Bearer secret-of-root-4711"}))["object"]


async def test_durations_have_openais_format() -> None:
    assert [duration(seconds) for seconds in (0, 0.2, 1, 59.1, 60, 360)] == ["0s", "1s", "1s", "1m0s", "1m0s", "6m0s"]
