"""The cost of a job and of a token: commands, frames, bytes, tasks and loop iterations. Measures no times."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from ignite.worker_process import working
from shared.backends.distributed import open_distributed
from shared.settings import Settings
from tests.contract.performers import QUEUE, message_for, new_job
from tests.support.amqp_recorder import AmqpRecorder
from tests.support.chat import Prompt, session_with
from tests.support.cluster import running_cluster
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis
from tests.support.wait_until import wait_until
from tests.system.test_distributed import counted
from worker.engines.simulated import SimulatedEngine

CALLS = 20
BODY_BYTES = len(orjson.dumps(Prompt().body()))


async def call(session: Any) -> None:
    async with session.post("/v1/chat/completions", json=Prompt().body()) as answer:
        assert answer.status == 200


async def test_a_call_costs_one_message_each_way_and_seven_commands(
    rabbitmq_server: RabbitMQ, vhost: str, redis_server: Redis, redis_url: str
) -> None:
    async with AmqpRecorder(rabbitmq_server.amqp_port) as wire:
        amqp_url = rabbitmq_server.url(vhost, wire.port)
        async with running_cluster(amqp_url, redis_url) as cluster:
            api, _ = await cluster.with_workers(1)
            async with session_with(api.url) as session:
                await call(session)  # From here on queue, scripts and models are known.
                await wait_until(lambda: wire.frames()["ack"] == 2, "the first message to be settled")
                before, size = wire.frames(), wire.size()
                async with redis_server.monitor() as commands:
                    for _ in range(CALLS):
                        await call(session)
                    await wait_until(lambda: wire.frames()["deliver"] == CALLS + 1, "all to be delivered")
                    await wait_until(
                        lambda: (wire.frames() - before)["ack"] == 2 * CALLS, "all to be confirmed and settled"
                    )

    cost = counted(commands)
    assert cost.pop("fair_queue_backlog", 0) < CALLS, "it is cached, for less time than a slow machine takes"
    assert cost.pop("fair_queue_remove", 0) <= CALLS, "nobody waits for it"
    assert cost == dict.fromkeys(("create", "index", "fair_queue_add", "claim", "fair_queue_start", "finish"), CALLS)
    published = [each for each in commands if each.by_script and each.name == "PUBLISH"]
    assert len(published) == 2 * CALLS, "its start and its end"

    frames = wire.frames() - before
    assert frames.pop("other", 0) == 0
    assert frames == {"publish": CALLS, "deliver": CALLS, "ack": 2 * CALLS, "header": 2 * CALLS, "body": 2 * CALLS}
    per_call = (wire.size() - size) / CALLS
    assert per_call <= 2 * (BODY_BYTES + 800), "the request and its envelope, to the broker and on to the worker"


class Counts:
    """Counts the event loop's callbacks and tasks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patch: pytest.MonkeyPatch) -> None:
        self.seen: Counter[str] = Counter()
        for name in ("call_soon", "create_task"):
            patch.setattr(loop, name, self._counting(name, getattr(loop, name)))

    def _counting(self, name: str, does: Any) -> Any:
        def counting(*arguments: Any, **more: Any) -> Any:
            self.seen[name] += 1
            return does(*arguments, **more)

        return counting


@asynccontextmanager
async def worker_at_hand(amqp_url: str, redis_url: str) -> AsyncGenerator[Any]:
    """A worker in this process, so that its loop iterations can be counted."""
    settings = Settings(amqp_url=amqp_url, redis_url=redis_url)
    engine = SimulatedEngine(model_id=QUEUE.model)
    await engine.start()
    async with open_distributed(amqp_url, redis_url) as backend, working(backend, engine, settings):
        yield backend
    await engine.close()


async def streamed(backend: Any, tokens: int) -> tuple[int, int]:
    """Returns the bytes and the updates of one stream."""
    body = orjson.dumps({"model": QUEUE.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens})
    job = new_job(mode="stream")
    size = updates = 0
    async with backend.log.follow(job.id, created_here=True) as follower:
        await backend.store.create(job, body=body, followed=True)
        await backend.queue.publish(message_for(job, body))
        while True:
            update = await follower.next()
            size, updates = size + len(update.data), updates + 1
            if update.ending is not None:
                return size, updates


async def test_a_token_costs_neither_a_task_nor_a_loop_iteration(
    amqp_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full speed tokens are sent together, so their number hardly matters."""
    few, many = 80, 800
    async with worker_at_hand(amqp_url, redis_url) as backend:
        await streamed(backend, few)
        counts = Counts(asyncio.get_running_loop(), monkeypatch)
        small, _ = await streamed(backend, few)
        base = counts.seen.copy()
        large, updates = await streamed(backend, many)
        more = counts.seen - base - base

    assert more["create_task"] <= (many - few) / 8
    assert more["call_soon"] < many - few
    assert updates <= many / 8 + 10
    assert (large - small) / (many - few) <= 250, "the bytes of a token's frame"


async def test_streams_side_by_side_share_their_steps_and_messages(
    amqp_url: str, redis_url: str, redis_server: Redis
) -> None:
    """A single stream would need one step and one message for every few tokens."""
    streams, tokens = 40, 80
    async with worker_at_hand(amqp_url, redis_url) as backend:
        await streamed(backend, tokens)
        async with redis_server.monitor() as commands:
            await asyncio.gather(*(streamed(backend, tokens) for _ in range(streams)))

    appends = counted(commands)["append"]
    published = sum(each.by_script and each.name == "PUBLISH" for each in commands)
    assert appends <= streams * tokens / 16, "a step carries many jobs' frames"
    assert published <= appends + 2 * streams, "and tells them in one message; each job's start and end are others"
