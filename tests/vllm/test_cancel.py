"""What nobody waits for any more is out of the engine at once: hang-ups, cancels, deadlines, drains, and jobs that are
put back. `num_requests_running` and `num_requests_waiting` say so.
"""

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.support.chat import session_with
from tests.support.cluster import Cluster
from tests.support.run_process import RunningProcess
from tests.support.wait_until import wait_until
from tests.vllm.server import Vllm

SLOTS = 4
SOON = 10.0
"""Seconds for which the engine's counts are read: far less than any of these answers takes."""

ANSWER: dict[str, Any] = {
    "model": "simulated",
    "messages": [{"role": "user", "content": "the quick brown fox"}],
    "max_tokens": 1900,
    "ignore_eos": True,
    "temperature": 0,
}
LONG_PROMPT = {**ANSWER, "messages": [{"role": "user", "content": "the quick brown fox " * 250}], "max_tokens": 500}


@dataclass
class Served:
    url: str
    engine: Vllm
    worker: RunningProcess
    start_worker: Callable[[], Awaitable[RunningProcess]]

    async def busy(self, count: int = 1) -> None:
        await wait_until(lambda: self._at_least(count), f"{count} sequences in the engine")

    async def free(self) -> None:
        await wait_until(self._is_free, "no sequence in the engine", within=SOON, seen=lambda: self._seen)

    async def _at_least(self, count: int) -> bool:
        return await self.engine.running() >= count

    async def _is_free(self) -> bool:
        self._seen = await self.engine.running()
        return self._seen == 0


@pytest.fixture
async def served(cluster: Cluster, plain: Vllm) -> AsyncGenerator[Served]:
    async def start() -> RunningProcess:
        url = ("--engine-url", plain.url, "--model", plain.model, "--model-id", "simulated")
        return await cluster.worker("--engine", "openai", *url, "--concurrency", str(SLOTS), "--drain", "0")

    api, worker = await asyncio.gather(cluster.api(), start())
    served = Served(api.url, plain, worker, start)
    await served.free()
    yield served
    await served.free()


async def hung_up(served: Served, bodies: list[dict[str, Any]], busy: int = SLOTS) -> None:
    """Calls whose clients leave when so many of them are in the engine."""
    async with session_with(served.url) as session:
        calls = [asyncio.create_task(read(session, body)) for body in bodies]
        await served.busy(busy)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await served.free()


async def read(session: aiohttp.ClientSession, body: dict[str, Any]) -> bytes:
    async with session.post("/v1/chat/completions", json=body) as response:
        return await response.read()


async def test_a_client_that_hangs_up_frees_the_engine(served: Served) -> None:
    await hung_up(served, [{**ANSWER, "stream": True}] * SLOTS)
    await hung_up(served, [ANSWER] * SLOTS)


async def test_a_client_that_hangs_up_during_prefill_frees_the_engine(served: Served) -> None:
    """While some prompts are read the others wait for that: whoever leaves, none is left behind."""
    for turn in range(5):
        prompts = [{**LONG_PROMPT, "stream": turn % 2 == 0, "seed": seed} for seed in range(SLOTS)]
        await hung_up(served, [{**body, "cache_salt": f"{turn}-{at}"} for at, body in enumerate(prompts)], busy=1)


async def test_a_cancel_frees_the_engine(served: Served) -> None:
    async with session_with(served.url) as session:
        async with session.post("/v1/chat/completions", json={**ANSWER, "background": True}) as response:
            job_id = (await response.json())["id"]
        await served.busy()
        async with session.post(f"/v1/jobs/{job_id}/cancel") as response:
            assert response.status == 200
        await served.free()


async def test_a_deadline_frees_the_engine(served: Served) -> None:
    async with session_with(served.url) as session:
        for stream in (False, True):
            body = {**ANSWER, "deadline_seconds": 1, "stream": stream}
            assert b"deadline" in await read(session, body)
            await served.free()


async def test_a_worker_that_leaves_frees_the_engine(served: Served) -> None:
    """The job goes on with the next one."""
    async with session_with(served.url) as session:
        call = asyncio.create_task(read(session, ANSWER))
        await served.busy()
        served.worker.send(signal.SIGTERM)
        await served.worker.wait()
        await served.free()
        await served.start_worker()
        assert b'"finish_reason":"length"' in await call


async def test_a_job_that_is_put_back_leaves_the_engine(served: Served) -> None:
    async with session_with(served.url) as session, asyncio.TaskGroup() as calls:
        flood = {**ANSWER, "service_tier": "flex", "stream": True}
        flex = [calls.create_task(read(session, {**flood, "seed": seed})) for seed in range(SLOTS)]
        await served.busy(SLOTS - 1)
        urgent = [calls.create_task(read(session, {**ANSWER, "max_tokens": 20})) for _ in range(SLOTS)]
        await served.worker.wait_for("job.put_back")
        await asyncio.gather(*urgent)
        assert await served.engine.running() <= SLOTS, "no sequence of a job that was put back"
    assert all(b"[DONE]" in call.result() for call in flex)
