"""Those who act in the contract: a client that submits, a worker that performs, a reader that follows."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any

from shared.backends.distributed import DistributedBackend
from shared.backends.embedded.backend import EmbeddedBackend
from shared.frames import DONE, error_frames, frame
from shared.job import Job, JobStatus, Mode, QueueName, Tier, new_job_id
from shared.ports import Backend, Claim, Consumer, Delivery, Ending, Follower, Message, ModelInfo, WorkerInfo

PATIENCE = 30.0
"""Seconds after which something that must come has not come."""

A_MOMENT = 0.2
"""Seconds in which something that must not come would have come."""

LEASE = 30.0
QUEUE = QueueName("house-model", Tier.DEFAULT)
CANCELLED = Ending(JobStatus.CANCELLED, error_frames({"message": "cancelled"}), error={"message": "cancelled"})
EXPIRED = Ending(JobStatus.EXPIRED, error_frames({"message": "too late"}), error={"message": "too late"})
FAILED = Ending(JobStatus.FAILED, error_frames({"message": "broken"}), error={"message": "broken"})
COMPLETED = Ending(JobStatus.COMPLETED, DONE, b'{"object":"chat.completion"}', usage={"total_tokens": 3})


def next_moment() -> float:
    """Now; a millisecond apart from the last one, since ids sort by milliseconds."""
    global _last_moment
    _last_moment = max(time.time(), _last_moment + 0.001)
    return _last_moment


_last_moment = 0.0


def new_job(
    *,
    queue: QueueName = QUEUE,
    tenant: str = "tenant",
    mode: Mode = "stream",
    deadline: float = 600.0,
    retention: float = 60.0,
    **more: Any,
) -> Job:
    now = next_moment()
    return Job(
        id=new_job_id(now),
        tenant=tenant,
        model=queue.model,
        tier=queue.tier,
        mode=mode,
        created_at=now,
        deadline_at=now + deadline,
        retention=retention,
        **more,
    )


def message_for(job: Job, body: bytes | None = b"{}", **changes: Any) -> Message:
    return replace(Message(job, body), **changes)


def some_frames(count: int, start: int = 0) -> list[bytes]:
    return [frame({"n": number}) for number in range(start, start + count)]


async def publish(backend: Backend, *jobs: Job) -> list[str]:
    for job in jobs:
        await backend.queue.publish(message_for(job))
    return [job.id for job in jobs]


async def count_waiting(backend: Backend, queue: QueueName = QUEUE) -> int:
    """The messages that wait in `queue`; those in a worker's hands are not counted."""
    if isinstance(backend, EmbeddedBackend):
        return backend.queue.waiting(queue)
    assert isinstance(backend, DistributedBackend)
    return await backend.queue.depth(queue)


async def submit(backend: Backend, **wishes: Any) -> Job:
    job = new_job(**wishes)
    await backend.store.create(job, body=b"{}")
    await backend.queue.publish(message_for(job))
    return job


async def created(backend: Backend, **wishes: Any) -> Job:
    """A job whose message does not matter to the test."""
    job = new_job(**wishes)
    await backend.store.create(job, body=b"{}")
    return job


async def record_of(backend: Backend, job_id: str) -> Job:
    record = await backend.store.get(job_id)
    assert record is not None
    return record


async def claimed(backend: Backend, job: Job, owner: str = "worker-1", lease: float = LEASE, **more: Any) -> Claim:
    claim = await backend.store.claim(job.id, owner, lease, **more)
    assert isinstance(claim, Claim), claim
    return claim


async def started(backend: Backend, owner: str = "worker-1", **wishes: Any) -> tuple[Job, Claim]:
    job = await created(backend, **wishes)
    return job, await claimed(backend, job, owner)


async def write(backend: Backend, claim: Claim, frames: Sequence[bytes]) -> int:
    """Append one by one; the log's new size."""
    offset = claim.offset
    for data in frames:
        await backend.log.append(claim.job_id, claim.attempt, offset, data)
        offset += len(data)
    return offset


async def perform(backend: Backend, claim: Claim, frames: Sequence[bytes], ending: Ending = COMPLETED) -> bytes:
    """Write the frames, finish, and answer what the log must hold."""
    size = await write(backend, claim, frames)
    await backend.store.finish(claim.job_id, claim.attempt, size, ending)
    return b"".join(frames) + ending.frames


async def ended(backend: Backend, ending: Ending = COMPLETED, frames: int = 3, **wishes: Any) -> tuple[Job, bytes]:
    """A job that is over, and its log."""
    job, claim = await started(backend, **wishes)
    return job, await perform(backend, claim, some_frames(frames), ending)


def a_worker(worker_id: str = "worker-1", model: str = QUEUE.model) -> WorkerInfo:
    now = time.time()
    info = ModelInfo(
        model,
        engine="simulated",
        created_at=now,
        seen_at=now,
        context_length=4096,
        description="for tests",
        capabilities=("tools",),
        modalities=("text", "image"),
        aliases=("other",),
    )
    return WorkerInfo(worker_id, info, concurrency=4, started_at=now)


async def next_of(consumer: Consumer) -> Delivery:
    async with asyncio.timeout(PATIENCE):
        return await consumer.next()


async def taken(consumer: Consumer, count: int) -> list[str]:
    """The ids of the next `count` jobs, acknowledged."""
    ids: list[str] = []
    for _ in range(count):
        delivery = await next_of(consumer)
        ids.append(delivery.message.job.id)
        await delivery.ack()
    return ids


async def nothing_comes(consumer: Consumer) -> bool:
    try:
        async with asyncio.timeout(A_MOMENT):
            await consumer.next()
    except TimeoutError:
        return True
    return False


@dataclass
class Story:
    """What a follower was told, to the end."""

    data: bytes
    statuses: list[JobStatus]
    ending: Ending


async def read_to_end(follower: Follower) -> Story:
    data, statuses = b"", list[JobStatus]()
    async with asyncio.timeout(PATIENCE):
        while True:
            update = await follower.next()
            assert update is not None
            data += update.data
            statuses.append(update.status)
            if update.ending is not None:
                return Story(data, statuses, update.ending)


async def follow_to_end(backend: Backend, job_id: str, offset: int = 0) -> Story:
    async with backend.log.follow(job_id, offset) as follower:
        return await read_to_end(follower)


async def read_at_least(follower: Follower, size: int) -> bytes:
    data = b""
    async with asyncio.timeout(PATIENCE):
        while len(data) < size:
            update = await follower.next()
            assert update is not None
            data += update.data
    return data


def consume(backend: Backend, *queues: QueueName, prefetch: int = 16) -> AbstractAsyncContextManager[Consumer]:
    return backend.queue.consume(queues or (QUEUE,), prefetch)
