"""The fair queue in Redis: decides which waiting job starts next. The rule is in shared/fairness.py, the steps in lua/.

Its keys are in another hash slot than a job's, so the two change one after the other. So the fair queue may contain a
job that has ended or is gone (it is removed when it is chosen), or lack a job that waits (it runs, uncharged, when its
own message is delivered).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from shared.aio import run_and_discard
from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.jobs.records import decode_job
from shared.fairness import entry_of, estimated_rank
from shared.job import Job, QueueName
from shared.ports import Backlog, QueueState

KNOWN_FOR = 1.0
"""Seconds for which the last read of the waiting tenants is used."""


RUNNING = 1e10
"""Added to a job's position in its queue's index while it runs, so that running jobs come behind all waiting jobs."""


class Contenders(NamedTuple):
    """Up to two tenants with jobs waiting in a queue, and an empty name if jobs with windows wait; `at`: when they were
    read (monotonic).
    """

    tenants: Sequence[bytes] = ()
    at: float = float("-inf")


class RedisFairQueue:
    """`fair`: whether the tenants of a queue share its workers fairly; otherwise jobs run in the order of arrival."""

    def __init__(self, pipeline: Pipeline, *, fair: bool) -> None:
        self._redis = pipeline
        self._fair = fair
        self._contenders: dict[str, Contenders] = {}

    def add(self, job: Job, position: float, ttl: int) -> asyncio.Future[Any]:
        return self._redis.step(
            lua_steps.fair_queue_add(
                self._keys(str(job.queue)),
                job_id=job.id,
                position=position,
                ttl_ms=ttl,
                entry=entry_of(job),
            )
        )

    def start(self, queue: str, job_id: str) -> None:
        """Marks a claimed job as started. The caller does not wait; the answer updates the waiting tenants."""
        step = self._redis.step(lua_steps.fair_queue_start(self._keys(queue), job_id=job_id), batchable=True)
        step.add_done_callback(lambda done: self._learn(queue, done))

    def requeue(self, queue: str, job_id: str, *, position: float, due_at: float) -> asyncio.Future[Any]:
        step = lua_steps.fair_queue_requeue(self._keys(queue), job_id=job_id, position=position, due_at=due_at)
        return self._redis.step(step)

    def remove(self, queue: str, job_id: str, tokens: int | None = None) -> None:
        """Removes a job. The caller does not wait; if the step is lost, the job is removed when it is chosen."""
        step = lua_steps.fair_queue_remove(self._keys(queue), job_id=job_id, used_tokens=tokens)
        self._redis.step(step, batchable=True).add_done_callback(run_and_discard)

    async def next_job(self, job: Job, *, served: str | None = None, fresh: bool = False) -> Job | None:
        while self._fair and (chosen := await self._choose(job, served, fresh=fresh)) != job.id:
            other = decode_job(await self._redis.command("HGETALL", keys.job(chosen)))
            if other is not None and not other.status.terminal:
                return other
            self.remove(str(job.queue), chosen)
            served = chosen
        return None

    async def _choose(self, job: Job, served: str | None, *, fresh: bool) -> str:
        """Returns the id of the job to start under the delivery of `job`. Asks Redis only if another tenant or a window
        may put another job first, or if the answer must be `fresh`.
        """
        queue = str(job.queue)
        if not (fresh or served or self._another_may_be_first(queue, job.tenant)):
            return job.id
        step = lua_steps.fair_queue_next(self._keys(queue), job_id=job.id, served=served, at=time.time())
        chosen, tenants = await self._redis.step(step)
        self._contenders[queue] = Contenders(tenants, time.monotonic())
        return chosen.decode()

    async def backlog(self, queue: QueueName, tenant: str) -> Backlog:
        step = lua_steps.fair_queue_backlog(self._keys(str(queue)), tenant=tenant)
        return Backlog(*await self._redis.step(step, batchable=True))

    async def queue_state(self, queue: QueueName) -> QueueState:
        index = keys.open_jobs(str(queue))
        running, oldest = await asyncio.gather(
            self._redis.command("ZCOUNT", index, RUNNING, "+inf"), self._redis.command("ZRANGE", index, 0, 0)
        )
        since = await self._redis.command("ZSCORE", index, oldest[0]) if oldest else None
        return QueueState(running, float(since) if since is not None and float(since) < RUNNING else None)

    async def position(self, job: Job) -> int | None:
        answer = await self._redis.step(lua_steps.fair_queue_position(self._keys(str(job.queue)), job_id=job.id))
        if not answer:
            return None
        if len(answer) == 1 or not self._fair:
            return answer[0]
        _, rank, tag, tokens, count, tenant, tags, counts = answer
        others = (
            (float(other), int(waiting))
            for name, other, waiting in zip(tags[::2], tags[1::2], counts, strict=True)
            if name != tenant
        )
        return estimated_rank(rank, float(tag), int(tokens) / count, others=others)

    def _keys(self, queue: str) -> Sequence[str]:
        """Returns the keys that a step must name. On one server the prefix of the names is enough."""
        return keys.fair_queue_keys(queue) if self._redis.spread else [keys.fair_queue(queue)]

    def _another_may_be_first(self, queue: str, tenant: str) -> bool:
        """Whether other tenants, or jobs with windows, may be waiting; true where nothing is known."""
        known = self._contenders.get(queue, Contenders())
        return time.monotonic() - known.at > KNOWN_FOR or others(known.tenants, tenant)

    def _learn(self, queue: str, done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._contenders[queue] = Contenders(done.result(), time.monotonic())


def others(tenants: Iterable[bytes], tenant: str) -> bool:
    return any(each != tenant.encode() for each in tenants)
