"""The line of each queue in Redis: who waits, whose turn it is. The rule is in shared/fairness.py, the steps in lua/.

Its keys are in another hash slot than those of a job, so that the two change one after the other. What that leaves room
for: a job may wait in line that is over or gone (its turn finds that out, and takes it out), or not wait in line though
it waits (it is run when its own message comes up, uncharged).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from shared.aio import run_and_discard
from shared.backends.redis import keys
from shared.backends.redis.connection.driver import Pipeline
from shared.fairness import estimated_rank
from shared.job import Job
from shared.ports import Backlog

KNOWN_FOR = 1.0
"""Seconds for which what a step said of who waits is good enough."""


class Contenders(NamedTuple):
    """Up to two of the tenants that have jobs waiting in a queue, and when that was so."""

    tenants: Sequence[bytes] = ()
    at: float = float("-inf")


class RedisFairQueue:
    def __init__(self, pipeline: Pipeline) -> None:
        self._redis = pipeline
        self._contenders: dict[str, Contenders] = {}

    def add(self, job: Job, place: float, ttl: int) -> asyncio.Future[Any]:
        return self._redis.step(
            "line_add", self._keys(str(job.queue)), job.id, place, ttl, job.tokens, job.weight, job.tenant
        )

    def start(self, queue: str, job_id: str) -> None:
        """A job was claimed. Nobody waits for the answer, and it says who else waits."""
        step = self._redis.step("line_start", self._keys(queue), job_id, patient=True)
        step.add_done_callback(lambda done: self._learn(queue, done))

    def back(self, queue: str, job_id: str, place: float, due: float) -> asyncio.Future[Any]:
        return self._redis.step("line_back", self._keys(queue), job_id, place, due)

    def leave(self, queue: str, job_id: str, tokens: int | None = None) -> None:
        """No caller waits for the answer: positions follow from it, and the reconciler repairs it."""
        used = "" if tokens is None else tokens
        step = self._redis.step("line_leave", self._keys(queue), job_id, used, patient=True)
        step.add_done_callback(run_and_discard)

    async def turn(self, job: Job, served: str | None, *, sure: bool) -> str:
        """The id of the job to start under the delivery of `job`. Costs nothing while no other tenant is known to wait,
        unless it must be `sure`.
        """
        queue = str(job.queue)
        if not (sure or served or self._others_wait(queue, job.tenant)):
            return job.id
        chosen, tenants = await self._redis.step("line_turn", self._keys(queue), job.id, served or "", time.time())
        self._contenders[queue] = Contenders(tenants, time.monotonic())
        return chosen.decode()

    async def backlog(self, queue: str, tenant: str) -> Backlog:
        return Backlog(*await self._redis.step("line_backlog", self._keys(queue), tenant, patient=True))

    async def ahead(self, job: Job, *, fair: bool) -> int | None:
        """How many start before `job`; None if it does not wait."""
        answer = await self._redis.step("line_look", self._keys(str(job.queue)), job.id)
        if not answer:
            return None
        if len(answer) == 1 or not fair:
            return answer[0]
        _, rank, tag, tokens, count, tenant, tags, counts = answer
        others = (
            (float(other), int(waiting))
            for name, other, waiting in zip(tags[::2], tags[1::2], counts, strict=True)
            if name != tenant
        )
        return estimated_rank(rank, float(tag), int(tokens) / count, others=others)

    def _keys(self, queue: str) -> Sequence[str]:
        """The step itself needs to be told no more than how the names begin."""
        return keys.all_of_line(queue) if self._redis.spread else [keys.line(queue)]

    def _others_wait(self, queue: str, tenant: str) -> bool:
        """Whether they may: also where nothing is known."""
        known = self._contenders.get(queue, Contenders())
        return time.monotonic() - known.at > KNOWN_FOR or others(known.tenants, tenant)

    def _learn(self, queue: str, done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._contenders[queue] = Contenders(done.result(), time.monotonic())


def others(tenants: Iterable[bytes], tenant: str) -> bool:
    return any(each != tenant.encode() for each in tenants)
