"""The fleet's state for operators, which tenants cannot read."""

import asyncio
import time
from dataclasses import asdict
from typing import Any

import pytest

from producer.admission.drain_rate import Measured
from producer.auth.keys import KeyRepository
from producer.fleet import SharedRead
from producer.http import response_models
from shared.errors import BackendUnavailable
from shared.job import QueueName, Tier
from shared.ports import EngineState
from tests.contract.performers import a_worker
from tests.producer.api import MODEL, Api, ask, embedded_api
from tests.producer.test_openapi import fits
from tests.support.wait_until import wait_until


async def queue(api: Api, tier: str = "default", **headers: str) -> dict[str, Any]:
    (found,) = [each for each in (await api.get("/v1/queues", **headers)).json["data"] if each["tier"] == tier]
    return found


async def queue_is(api: Api, **state: Any) -> bool:
    found = await queue(api)
    return all(found[name] == value for name, value in state.items())


async def worker_is(api: Api, **state: Any) -> bool:
    found = (await api.get("/v1/workers")).json["data"]
    return len(found) == 1 and all(found[0][name] == value for name, value in state.items())


async def test_many_readers_share_one_read_of_the_store() -> None:
    reads = 0

    async def read() -> int:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        return reads

    shared = SharedRead(read)
    assert set(await asyncio.gather(*(shared.get() for _ in range(50)))) == {1}


async def test_a_failed_read_is_not_shared() -> None:
    answers = iter([BackendUnavailable("Redis does not answer."), 7])

    async def read() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shared = SharedRead(read)
    with pytest.raises(BackendUnavailable):
        await shared.get()
    assert await shared.get() == 7


async def test_queues_show_waiting_and_running_jobs(idle_api: Api) -> None:
    empty = await queue(idle_api)
    fits(response_models.QueueList, (await idle_api.get("/v1/queues")).json)
    assert (empty["model"], empty["waiting"], empty["running"], empty["backlog_seconds"]) == (MODEL, 0, 0, 0)
    assert empty["oldest_wait_seconds"] == 0
    idle_api.engine.gate.clear()
    for _ in range(5):
        await idle_api.submit(ask())
    await wait_until(lambda: queue_is(idle_api, waiting=5), "the report to be read anew")
    waiting = await queue(idle_api)
    assert (waiting["waiting"], waiting["running"], waiting["waiting_tenants"]) == (5, 0, 1)
    assert waiting["waiting_tokens"] > 5 * 256
    assert waiting["oldest_wait_seconds"] > 0
    assert (await queue(idle_api, "flex"))["waiting"] == 0
    async with idle_api.worker():
        await wait_until(lambda: queue_is(idle_api, waiting=0, running=5), "all to run")
        idle_api.engine.gate.set()
        await wait_until(lambda: queue_is(idle_api, waiting=0, running=0), "all to be over")


async def test_workers_show_their_load(api: Api) -> None:
    api.engine.gate.clear()
    await api.submit(ask())
    await wait_until(lambda: api.engine.working == 1, "the job to run")
    await wait_until(lambda: worker_is(api, running=1), "the report to be read anew")
    page = (await api.get("/v1/workers")).json
    fits(response_models.WorkerList, page)
    (worker,) = page["data"]
    assert (worker["model"], worker["engine"], worker["slots"]) == (MODEL, "simulated", api.engine.concurrency)
    assert (worker["running"], worker["ready"], worker["version"]) == (1, True, "0.1.0")
    api.engine.gate.set()


@pytest.mark.parametrize("path", ["/v1/queues", "/v1/workers", "/metrics"])
async def test_queues_and_workers_need_an_operators_key(path: str) -> None:
    async with embedded_api(api_keys="alice=secret-of-alice-4711") as api:
        secret, _ = await KeyRepository(api.backend.documents).create("ops", operator=True)
        assert (await api.get(path)).status == 401
        denied = await api.get(path, authorization="Bearer secret-of-alice-4711")
        assert (denied.status, denied.error["code"]) == (403, "permission_denied")
        assert (await api.get(path, authorization=f"Bearer {secret}")).status == 200


async def test_metrics_show_the_work_for_autoscalers(idle_api: Api) -> None:
    idle_api.engine.gate.clear()
    for _ in range(3):
        await idle_api.submit(ask())
    async with idle_api.worker():
        await wait_until(lambda: queue_is(idle_api, running=3), "all to run")
        lines = (await idle_api.get("/metrics")).body.decode().splitlines()
        idle_api.engine.gate.set()
    labels = '{model="simulated",tier="default"}'
    for name, value in (("depth", 0.0), ("running", 3.0), ("tokens", 0.0), ("oldest_seconds", 0.0)):
        assert f"ignite_queue_{name}{labels} {value}" in lines
    assert f'ignite_worker_slots{{model="simulated"}} {idle_api.engine.concurrency:.1f}' in lines
    assert f"ignite_queue_backlog_seconds{labels} 0.0" in lines


async def test_without_a_worker_nothing_is_estimated(idle_api: Api) -> None:
    """Also if a drain rate was measured before."""
    job_id = await idle_api.submit(ask())
    name, context = str(QueueName(MODEL, Tier.DEFAULT)), idle_api.context
    for rates in (context.service._gate._rates, context.fleet._rates):
        rates._queues[name] = Measured(started=1000, waiting=1000, at=time.monotonic(), rate=1000.0, seen=1000)

    answer = await idle_api.get(f"/v1/jobs/{job_id}")
    assert answer.json["queue"]["eta_seconds"] is None and answer.json["queue"]["workers"] == 0
    assert "x-queue-eta-seconds" not in answer.headers
    row = await queue(idle_api)
    assert (row["backlog_seconds"], row["started_per_second"]) == (None, 0.0)
    lines = (await idle_api.get("/metrics")).body.decode().splitlines()
    assert 'ignite_queue_backlog_seconds{model="simulated",tier="default"} +Inf' in lines


async def test_what_engines_tell_of_themselves_is_shown() -> None:
    async with embedded_api(worker=False) as api:
        state = EngineState(running=3, waiting=2, kv_cache_usage=0.5, restarts=1)
        emptier = EngineState(running=1, kv_cache_usage=0.25)
        registry = api.backend.registry
        async with (
            registry.join(a_worker("one", MODEL), engine_state=lambda: state),
            registry.join(a_worker("two", MODEL), engine_state=lambda: emptier),
            registry.join(a_worker("mute", MODEL)),
        ):
            page = (await api.get("/v1/workers")).json
            fits(response_models.WorkerList, page)
            states = {worker["id"]: worker["engine_state"] for worker in page["data"]}
            assert states["one"] == asdict(state)
            assert states["mute"] is None
            metrics = (await api.get("/metrics")).body.decode()
            for line in ("requests_running", "4.0"), ("requests_waiting", "2.0"), ("kv_cache_usage", "0.5"):
                assert f'ignite_engine_{line[0]}{{model="{MODEL}"}} {line[1]}' in metrics

        async def is_silent() -> bool:
            return "ignite_engine_requests_running{" not in (await api.get("/metrics")).body.decode()

        await wait_until(is_silent, "no engine to tell any more")
