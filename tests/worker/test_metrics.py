"""A worker counts every job that ends on it, and serves the counts on a port of its own."""

import asyncio
from collections.abc import AsyncGenerator

import aiohttp
import pytest
from prometheus_client import REGISTRY

from shared.job import JobStatus
from tests.contract.performers import QUEUE
from tests.worker.scripted import Bench, open_bench
from worker.telemetry.server import serving_metrics


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    async with open_bench() as bench:
        yield bench


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"model": QUEUE.model, **labels}) or 0.0


def ended(outcome: str, code: str) -> float:
    return counted("ignite_jobs_ended_total", tier="default", outcome=outcome, code=code)


async def test_ended_jobs_are_counted_with_their_tokens_and_times(bench: Bench) -> None:
    names = [f"ignite_job_{name}_seconds_count" for name in ("first_token", "token_interval")]
    before = ended("completed", ""), *(counted(name) for name in names), counted("ignite_job_tokens_total", kind="out")

    await bench.submit("answer")
    await bench.run()

    after = ended("completed", ""), *(counted(name) for name in names), counted("ignite_job_tokens_total", kind="out")
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1, 4]


async def test_failures_and_retries_are_counted_by_code(bench: Bench) -> None:
    exhausted, retries = ended("failed", "attempts_exhausted"), counted("ignite_job_retries_total")

    job = await bench.submit("fail")
    await bench.run_until(JobStatus.FAILED, job)

    assert ended("failed", "attempts_exhausted") - exhausted == 1
    assert counted("ignite_job_retries_total") - retries == bench.place.max_tries - 1


async def test_the_port_serves_metrics_and_health_and_nothing_else() -> None:
    async with serving_metrics("127.0.0.1", 0) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.get("/metrics") as metrics:
            assert metrics.status == 200
            assert "ignite_jobs_ended" in await metrics.text()
        async with session.get("/healthz") as health:
            assert (health.status, await health.text()) == (200, "ok\n")
        for method, path, status in (("GET", "/secrets", 404), ("POST", "/metrics", 405)):
            async with session.request(method, path) as refused:
                assert refused.status == status


async def test_a_head_that_is_too_long_is_cut_off() -> None:
    async with serving_metrics("127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 20_000)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readuntil(b"200 OK")
        writer.close()
