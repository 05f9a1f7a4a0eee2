"""An API and two workers on RabbitMQ and Redis: complete streams, their cost, and what remains."""

from collections import Counter
from collections.abc import Iterable

from shared.backends.distributed import open_distributed
from shared.backends.redis.connection.scripts import script, steps
from tests.contract.performers import consume, new_job, publish, taken
from tests.support.chat import Prompt, ended, reached, session_with, streaming, submit
from tests.support.cluster import Cluster, all_settled
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Command, Redis
from tests.support.wait_until import wait_until

STEPS = {script(name).sha: name for name in steps()}
HEARTBEAT = (
    "ignite:worker:",
    "ignite:workers",
    "ignite:models",
    "ignite:outbox",
    "ignite:{batch-open:",
    "ignite:{batch-lease:",
    "ignite:{revoked-key:",
)


async def test_two_hundred_streams_are_complete_and_leave_nothing(
    cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str, redis_server: Redis, redis_database: int
) -> None:
    api, workers = await cluster.with_workers(2)
    prompts = [Prompt(seed=number * 7, tokens=20 + number % 30, itl=number % 5) for number in range(200)]

    async with streaming(api.url, prompts) as streams:
        pass

    for stream in streams:
        stream.assert_whole()
    assert len({stream.job_id for stream in streams}) == 200
    for worker in workers:
        assert "job.finished" in worker.output, "every worker has its share"
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")
    assert redis_server.keys_without_expiry(redis_database) == []


async def test_a_token_costs_one_append_and_waiting_costs_nothing(cluster: Cluster, redis_server: Redis) -> None:
    api, _ = await cluster.with_workers(2)
    async with streaming(api.url, [Prompt()]):
        pass  # From here on both sides know the scripts, and the API the models.

    async with redis_server.monitor() as commands, streaming(api.url, [Prompt(tokens=50, itl=10, ttft=2000)]):
        pass

    cost = counted(commands)
    assert cost.pop("append") <= 50 + 2
    assert cost.pop("fair_queue_remove", 0) <= 1, "nobody waits for it, so it may come after the client has gone"
    assert cost == {"create": 1, "index": 1, "fair_queue_add": 1, "claim": 1, "fair_queue_start": 1, "finish": 1}


async def test_a_full_worker_keeps_no_delivery_that_another_could_run(cluster: Cluster) -> None:
    """Prefetch is per queue: a worker with one used slot would otherwise keep a job of each other tier."""
    api, _ = await cluster.with_workers(1, "--concurrency", "1")
    async with streaming(api.url, [Prompt(tokens=5000, itl=20)]) as (stream,), session_with(api.url) as session:
        await reached([stream], 5)
        waiting = [await submit(session, Prompt(seed=5), service_tier=tier) for tier in ("priority", "flex")]
        await cluster.worker()
        assert [(await ended(session, job_id))["status"] for job_id in waiting] == ["completed"] * 2
        assert len(stream.frames) < 5000
        async with session.post(f"/v1/jobs/{stream.job_id}/cancel"):
            pass


def counted(commands: Iterable[Command]) -> Counter[str]:
    """Counts round trips by name, without heartbeats, searches for batches and revoked keys, and pings of
    subscriptions.
    """
    return Counter(step_of(each) for each in commands if not each.by_script and not is_heartbeat(each))


def is_heartbeat(command: Command) -> bool:
    return command.name == "PING" or any(f" {key}" in command.text for key in HEARTBEAT)


def step_of(command: Command) -> str:
    return STEPS[command.text.split()[1]] if command.name == "EVALSHA" else command.name


async def test_processes_with_other_bounds_share_a_queue(amqp_url: str, redis_url: str) -> None:
    """Processes with different settings share a queue, which keeps the limit of its declaration."""
    async with (
        open_distributed(amqp_url, redis_url, queue_limit=10) as one,
        open_distributed(amqp_url, redis_url, queue_limit=20) as other,
    ):
        ids = await publish(one, new_job(), new_job())
        async with consume(other) as consumer:
            ids += await publish(other, new_job())
            assert await taken(consumer, 3) == ids
