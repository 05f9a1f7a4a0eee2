"""Registry: who works, on what, and the way to a worker's ear."""

import asyncio
import time
from dataclasses import replace

import pytest

from shared.backends.distributed import open_distributed
from shared.ports import Backend, EngineState
from tests.contract.performers import CANCELLED, PATIENCE, a_worker, started
from tests.support.redis_cluster import RedisCluster
from tests.support.wait_until import wait_until


async def test_a_worker_is_there_while_it_is_inside(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    worker = a_worker()
    assert not await other.registry.alive(worker.id)
    async with one.registry.join(worker):
        assert await other.registry.alive(worker.id)
        (seen,) = await other.registry.workers()
        assert replace(seen, model=replace(seen.model, seen_at=worker.model.seen_at)) == worker
    await wait_until(lambda: is_dead(other, worker.id))
    assert await other.registry.workers() == []


async def is_dead(backend: Backend, worker_id: str) -> bool:
    return not await backend.registry.alive(worker_id)


async def test_a_worker_that_fails_is_gone_too(backend: Backend) -> None:
    with pytest.raises(ZeroDivisionError):
        async with backend.registry.join(a_worker()):
            raise ZeroDivisionError
    await wait_until(lambda: is_dead(backend, "worker-1"))
    assert await backend.registry.workers() == []


async def test_several_workers_and_their_models(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    first, second, third = a_worker("1", "model-a"), a_worker("2", "model-b"), a_worker("3", "model-b")
    async with one.registry.join(first), other.registry.join(second), other.registry.join(third):
        assert {worker.id for worker in await one.registry.workers()} == {"1", "2", "3"}
        models = {model.id: model for model in await one.registry.models()}
        assert set(models) == {"model-a", "model-b"}
        assert models["model-a"] == replace(first.model, seen_at=models["model-a"].seen_at)


async def test_a_model_is_known_after_its_last_worker_has_left(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    assert await other.registry.models() == []
    async with one.registry.join(a_worker(model="model-a")):
        pass
    (model,) = await other.registry.models()
    assert model.id == "model-a"
    assert abs(model.seen_at - time.time()) < PATIENCE


async def test_requests_reach_the_worker_they_are_for(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    async with one.registry.join(a_worker("1")) as first, one.registry.join(a_worker("2")) as second:
        jobs = [(await started(one, owner=owner))[0] for owner in ("1", "2", "1")]
        for job in jobs:
            await other.store.cancel(job.id, CANCELLED)
        async with asyncio.timeout(PATIENCE):
            assert [await anext(first.cancels), await anext(first.cancels)] == [jobs[0].id, jobs[2].id]
            assert await anext(second.cancels) == jobs[1].id


async def test_a_worker_tells_whether_it_is_ready(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    async with one.registry.join(a_worker()) as member:
        for ready in (False, True):
            member.announce(ready=ready)
            await wait_until(lambda ready=ready: readiness_is(other, ready))


async def readiness_is(backend: Backend, ready: bool) -> bool:
    return [worker.ready for worker in await backend.registry.workers()] == [ready]


async def test_a_worker_with_several_models(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    first, second, third = (a_worker(model=model).model for model in ("a", "b", "c"))
    adapter = replace(second, parent="a")
    async with one.registry.join(a_worker().serving([first, adapter])) as member:
        (worker,) = await other.registry.workers()
        assert [model.id for model in worker.models] == ["a", "b"]
        assert {model.id: model.parent for model in await other.registry.models()} == {"a": None, "b": "a"}
        member.announce(models=[third])

        async def serves_the_third() -> bool:
            (worker,) = await other.registry.workers()
            return [model.id for model in worker.models] == ["c"] and worker.ready

        await wait_until(serves_the_third, "the worker's word")
        assert {model.id for model in await other.registry.models()} == {"a", "b", "c"}


async def test_a_worker_tells_of_its_engine(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    state: EngineState | None = None
    async with one.registry.join(a_worker(), engine_state=lambda: state) as member:
        state = EngineState(running=2, waiting=7, kv_cache_usage=0.25, restarts=1)
        member.announce(ready=False)

        async def is_told() -> bool:
            (seen,) = await other.registry.workers()
            return seen.engine_state == state

        await wait_until(is_told, "the engine's state")


async def test_a_worker_says_how_much_it_runs(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    running = 0
    async with one.registry.join(a_worker(), lambda: running) as member:
        running = 3
        member.announce(ready=False)

        async def is_told() -> bool:
            (seen,) = await other.registry.workers()
            return (seen.running, seen.ready) == (3, False)

        await wait_until(is_told, "the worker's word")


@pytest.mark.usefixtures("settled_redis")
async def test_a_worker_that_was_killed_is_not_shown_though_its_record_lives_on(amqp_url: str, redis_url: str) -> None:
    async with open_distributed(amqp_url, redis_url) as backend:
        await backend.registry._announce(a_worker("killed"))
        async with backend.registry.join(a_worker("alive")):
            assert [worker.id for worker in await backend.registry.workers()] == ["alive"]
        assert await backend.registry.workers() == []


async def test_on_a_cluster_too(amqp_url: str, redis_cluster: RedisCluster) -> None:
    async with open_distributed(amqp_url, redis_cluster.url) as backend:
        await backend.registry._announce(a_worker("killed"))
        async with backend.registry.join(a_worker("alive")):
            await wait_until(lambda: only_alive(backend), "the killed one to be gone")


async def only_alive(backend: Backend) -> bool:
    return [worker.id for worker in await backend.registry.workers()] == ["alive"]
