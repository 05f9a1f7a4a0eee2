"""A request that kills its worker, and invalid messages: other jobs are unaffected."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aio_pika
import pytest

from producer.auth.keyring import LOCAL_TENANT
from shared.backends import open_backend
from shared.backends.envelope import encode_envelope
from shared.job import Job, QueueName, Tier, new_job_id
from shared.ports import Message
from shared.settings import load_settings
from tests.faults.test_worker_lost import attempts_of
from tests.support.chat import Prompt, compact, ended, reached, session_with, streaming
from tests.support.cluster import Cluster, all_settled
from tests.support.engine_server import MANAGED
from tests.support.rabbitmq import RabbitMQ
from tests.support.wait_until import wait_until

QUEUE = QueueName("simulated", Tier.DEFAULT)
INNOCENT = [Prompt(seed=100 * number, tokens=60, itl=100) for number in range(6)]
BENT = [
    ('"unary"', '"sideways"'),
    ('"default"', '"platinum"'),
    ('"retention":60', '"retention":null'),
    ('"id"', '"ID"'),
]
"""Replacements in an envelope."""
POISON = {"model": "simulated", "messages": [{"role": "user", "content": "poison"}]}


async def test_a_request_that_killed_two_workers_is_quarantined(
    cluster: Cluster, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    api, workers = await cluster.with_workers(3, *MANAGED)

    async with streaming(api.url, INNOCENT) as streams, session_with(api.url) as session:
        await reached(streams, 3)
        async with session.post("/v1/chat/completions", json=POISON) as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (500, "attempts_exhausted")

    assert sorted(worker.returncode or 0 for worker in workers) == [-9, -9, 0]
    for stream in streams:
        stream.assert_whole()
    assert max(await attempts_of(api.url, streams)) > 1, "they ran beside it"
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


@pytest.mark.long
async def test_undecodable_messages_are_set_aside_and_do_not_block_others(
    cluster: Cluster, amqp_url: str, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    api, (worker,) = await cluster.with_workers(1, "--concurrency", "2")
    envelope = encode_envelope(Message(new_job(), b"{}"))
    garbage: list[tuple[Mapping[str, Any], bytes]] = [
        ({}, b""),
        ({"x-job": "chatcmpl-1"}, b"\xff\xfe"),
        (encode_envelope(Message(replace(new_job(), created_at=1e300), b"{}")), b"{}"),
        *(({**envelope, "x-job": str(envelope["x-job"]).replace(*each)}, b"{}") for each in BENT),
    ]

    async with streaming(api.url, INNOCENT) as streams:
        await reached(streams[:2], 5)
        for headers, body in garbage:
            await publish(amqp_url, headers, body)

    for stream in streams:
        stream.assert_whole()
    assert await attempts_of(api.url, streams) == [1] * len(streams)
    assert worker.returncode is None
    await wait_until(
        lambda: waiting(rabbitmq_server, vhost) == {"ignite.undecodable": len(garbage)}, "all to be set aside"
    )


SENSELESS: list[tuple[bytes | None, dict[str, Any]]] = [
    (b'{"model": "simulated", "mess', {}),
    (b"[]", {}),
    (b"null", {}),
    (b"\xff", {}),
    (b'{"messages": 7}', {}),
    (None, {"deadline_at": 1.0}),
    (None, {"model": "another"}),
]
"""Bodies (None: a good one), and what their envelopes say that the records do not."""


@pytest.mark.long
async def test_invalid_messages_fail_only_their_own_jobs(
    cluster: Cluster, amqp_url: str, redis_url: str, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    """Each message has a job record, like the message of an accepted job."""
    api, (worker,) = await cluster.with_workers(1, "--max-tries", "2", "--retry-backoff", "0.1")

    async with streaming(api.url, INNOCENT) as streams, session_with(api.url) as session:
        await reached(streams, 5)
        jobs = [await planted(amqp_url, redis_url, *each) for each in SENSELESS]
        ends = await asyncio.gather(*(ended(session, job) for job in jobs))

    assert [end["status"] for end in ends[:6]] == ["failed"] * 5 + ["expired"]
    for stream in streams:
        stream.assert_whole()
    assert await attempts_of(api.url, streams) == [1] * len(streams)
    assert worker.returncode is None
    await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")


async def planted(amqp_url: str, redis_url: str, body: bytes | None, fields: Mapping[str, Any]) -> str:
    """Creates a job with a valid record and an invalid message, and returns its id."""
    job, good = new_job(), compact(Prompt().body()).encode()
    async with open_backend(load_settings({"amqp_url": amqp_url, "redis_url": redis_url})) as backend:
        await backend.store.create(job, body=good)
    message = Message(replace(job, **fields), good if body is None else body)
    await publish(amqp_url, encode_envelope(message), message.body or b"")
    return job.id


def new_job() -> Job:
    now = time.time()
    return Job(new_job_id(now), LOCAL_TENANT, QUEUE.model, QUEUE.tier, "unary", now, now + 60, retention=60)


async def publish(amqp_url: str, headers: Mapping[str, Any], body: bytes) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        message = aio_pika.Message(body, headers=dict(headers), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, f"ignite.jobs.{QUEUE}")


def waiting(server: RabbitMQ, vhost: str) -> dict[str, int]:
    """Returns the number of messages of each non-empty queue."""
    counts = {
        each.name: (each.messages_ready or 0) + (each.messages_unacknowledged or 0) for each in server.queues(vhost)
    }
    return {name: count for name, count in counts.items() if count}
