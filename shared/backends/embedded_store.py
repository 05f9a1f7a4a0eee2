"""The embedded backend's store: each call is one step, and what the followers must hear of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from shared.backends import embedded_jobs as jobs
from shared.backends import embedded_views as views
from shared.backends.embedded_log import tell_ended
from shared.backends.embedded_purge import Purge
from shared.backends.embedded_registry import EmbeddedRegistry
from shared.backends.follower import FollowerHub
from shared.backends.sqlite import Database
from shared.job import Job, JobStatus
from shared.ports import Claim, Ending, JobFilter, NotClaimed


class EmbeddedStore:
    """Only an ending is committed against power cuts: the publish that follows a create covers that too."""

    def __init__(self, database: Database, hub: FollowerHub, registry: EmbeddedRegistry, purge: Purge) -> None:
        self._database = database
        self._hub = hub
        self._registry = registry
        self._purge = purge

    async def create(self, job: Job, *, body: bytes | None = None, followed: bool = False) -> None:
        del followed  # Every follower is in this process and hears of every job anyway.
        await self._database.run(lambda db: jobs.create(db, job, body))

    async def discard(self, job: Job) -> None:
        await self._database.run(lambda db: jobs.discard(db, job.id))

    async def claim(self, job_id: str, owner: str, lease: float, *, lost: str | None = None) -> Claim | NotClaimed:
        def claimed(outcome: Claim | NotClaimed) -> Claim | NotClaimed:
            if isinstance(outcome, Claim):
                self._hub.move(job_id, JobStatus.IN_PROGRESS)
            return outcome

        return await self._database.run(
            lambda db: jobs.claim(db, job_id, owner, lease, lost, time.time()), after=claimed
        )

    async def renew(self, job_id: str, attempt: int, lease: float) -> None:
        await self._database.run(lambda db: jobs.renew(db, job_id, attempt, lease, time.time()))

    async def release(self, job_id: str, attempt: int, *, counted: bool) -> None:
        await self._database.run(
            lambda db: jobs.release(db, job_id, attempt, counted, time.time()),
            after=lambda status: self._hub.move(job_id, status),
        )

    async def finish(self, job_id: str, attempt: int, offset: int, ending: Ending) -> None:
        await self._database.run(
            lambda db: jobs.finish(db, job_id, attempt, offset, ending, time.time()),
            after=lambda ended: self._tell(job_id, ended),
            durable=True,
        )

    async def end_unclaimed(self, job_id: str, ending: Ending, *, owner: str | None = None) -> bool:
        return await self._database.run(
            lambda db: jobs.end_unclaimed(db, job_id, ending, owner, time.time()),
            after=lambda ended: self._tell(job_id, ended),
            durable=True,
        )

    async def cancel(self, job_id: str, ending: Ending) -> None:
        await self._database.run(
            lambda db: jobs.cancel(db, job_id, ending, self._registry.joined, time.time()),
            after=lambda outcome: self._tell(job_id, outcome),
            durable=True,
        )

    async def get(self, job_id: str) -> Job | None:
        return await self._database.run(lambda db: views.get(db, job_id, time.time()))

    async def list(self, tenant: str, where: JobFilter, *, after: str | None, limit: int) -> Sequence[Job]:
        return await self._database.run(lambda db: views.list_jobs(db, tenant, where, after, limit, time.time()))

    async def knew(self, tenant: str, job_id: str) -> bool:
        return await self._database.run(lambda db: views.knew(db, tenant, job_id))

    async def position(self, job: Job) -> int | None:
        return await self._database.run(lambda db: views.position(db, job))

    def _tell(self, job_id: str, outcome: jobs.Ended | jobs.Asked | None) -> bool:
        """Whether the job has ended by this."""
        match outcome:
            case jobs.Ended():
                tell_ended(self._hub, job_id, outcome)
                self._purge.expect(outcome.purge_at)
            case jobs.Asked(owner):
                self._registry.ask_to_stop(owner, job_id)
            case None:
                pass
        return isinstance(outcome, jobs.Ended)
