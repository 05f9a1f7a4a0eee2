"""The job log on Redis: a string per job, appended in one step that also publishes to the replicas that follow it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager

from shared.aio import run_and_discard
from shared.backends.ending import decode_ending
from shared.backends.fair_reads import FairReads
from shared.backends.follower import LogFollower, Snapshot
from shared.backends.follower_hub import FollowerHub
from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.connection.presence import any_subscribed
from shared.backends.redis.jobs.appends import Appends
from shared.backends.redis.storage_quota import KeptBytes
from shared.job import JobStatus
from shared.ports import Follower, Progress


class RedisLog:
    def __init__(self, pipeline: Pipeline, hub: FollowerHub, replica: str, kept: KeptBytes) -> None:
        self._redis = pipeline
        self._appends = Appends(pipeline)
        self._hub = hub
        self._reads = FairReads(self._snapshot)
        self._replica = replica
        self._kept = kept

    def append(
        self, job_id: str, attempt: int, offset: int, frames: bytes, progress: Progress | None = None
    ) -> Awaitable[None]:
        # The first frame is sent at once, because it determines the time to the first token.
        return self._appends.add(job_id, attempt, offset, frames, progress, batchable=offset > 0)

    async def reserve(self, job_id: str, attempt: int, size: int) -> None:
        await self._kept.reserve(job_id, attempt, size)

    @asynccontextmanager
    async def follow(self, job_id: str, offset: int = 0, *, created_here: bool = False) -> AsyncGenerator[Follower]:
        follower = LogFollower(job_id, offset, self._reads.read, stale=not created_here)
        try:
            with self._hub.following(follower):
                yield follower
        finally:
            if not follower.ended and job_id not in self._hub:
                step = lua_steps.unfollow(job_id, replica=self._replica)
                self._redis.step(step).add_done_callback(run_and_discard)

    async def followed(self, job_id: str) -> bool:
        replicas = await self._redis.command("HGET", keys.job(job_id), "followers")
        return bool(replicas) and await any_subscribed(self._redis, *map(keys.replica, replicas.decode().split()))

    async def read(self, job_id: str, offset: int = 0) -> bytes:
        return await self._redis.command("GETRANGE", keys.log(job_id), offset, -1)

    async def read_progress(self, job_id: str) -> bytes:
        return await self._redis.command("GET", keys.progress(job_id)) or b""

    async def _snapshot(self, job_id: str, offset: int, limit: int) -> Snapshot | None:
        """Reads the log. The same step adds this replica to the job's followers, so no live message is missed."""
        answer = await self._redis.step(lua_steps.follow(job_id, replica=self._replica, offset=offset, limit=limit))
        if not answer[0]:
            return None
        status, data, size, header, result, epoch = answer
        ending = decode_ending(header, result or None) if header else None
        return Snapshot(data, size, JobStatus(status.decode()), ending=ending, epoch=int(epoch))


def dispatch(hub: FollowerHub, message: bytes) -> None:
    """Decodes a live message (see prelude.lua), which contains changes of one or more jobs, and applies them."""
    at = 0
    while at < len(message):
        start = message.index(b"\n", at) + 1
        raw_id, kind, number, size = message[at : start - 1].split(b" ")
        at = start + int(size)
        job_id, payload = raw_id.decode(), message[start:at]
        match kind:
            case b"f":
                hub.deliver(job_id, int(number), payload)
            case b"s":
                hub.move(job_id, JobStatus(payload.decode()))
            case _:
                header, _, result = payload.partition(b"\n")
                hub.end(job_id, int(number), decode_ending(header, result or None))
