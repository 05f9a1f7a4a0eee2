"""The embedded backend's log. Bytes are committed to the database first, and then sent to the followers."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from functools import partial

from shared.backends.embedded.database import jobs, log_rows, views
from shared.backends.embedded.database.connection import Database
from shared.backends.embedded.database.log_rows import Extended
from shared.backends.fair_reads import FairReads
from shared.backends.follower import LogFollower, Snapshot
from shared.backends.follower_hub import FollowerHub
from shared.ports import Follower, Progress


class EmbeddedLog:
    def __init__(self, database: Database, hub: FollowerHub, tenant_limit: int) -> None:
        self._database = database
        self._hub = hub
        self._reads = FairReads(self._snapshot)
        self._tenant_limit = tenant_limit

    def append(
        self, job_id: str, attempt: int, offset: int, frames: bytes, progress: Progress | None = None
    ) -> Awaitable[None]:
        return self._database.run(
            lambda db: log_rows.append(
                db, job_id, attempt, offset=offset, frames=frames, progress=progress, now=time.time()
            ),
            after=partial(notify_extended, self._hub, job_id),
        )

    async def reserve(self, job_id: str, attempt: int, size: int) -> None:
        limit = self._tenant_limit
        await self._database.run(
            lambda db: log_rows.reserve(db, job_id, attempt, room=size, limit=limit, now=time.time())
        )

    @asynccontextmanager
    async def follow(self, job_id: str, offset: int = 0, *, created_here: bool = False) -> AsyncGenerator[Follower]:
        follower = LogFollower(job_id, offset, self._reads.read, stale=not created_here)
        with self._hub.following(follower):
            yield follower

    async def followed(self, job_id: str) -> bool:
        return job_id in self._hub

    async def read(self, job_id: str, offset: int = 0) -> bytes:
        return await self._database.run(lambda db: views.read_all(db, job_id, offset, now=time.time()))

    async def read_progress(self, job_id: str) -> bytes:
        return await self._database.run(lambda db: views.read_progress(db, job_id))

    async def _snapshot(self, job_id: str, offset: int, limit: int) -> Snapshot | None:
        return await self._database.run(lambda db: views.snapshot(db, job_id, offset, limit=limit, now=time.time()))


def notify_extended(hub: FollowerHub, job_id: str, extended: Extended | None) -> None:
    if extended is not None:
        hub.deliver(job_id, extended.offset, extended.data)


def notify_ended(hub: FollowerHub, job_id: str, ended: jobs.Ended) -> None:
    notify_extended(hub, job_id, ended.extended)
    hub.end(job_id, ended.size, ended.ending)
