"""The embedded backend's store: each call is one step, and what the followers must hear of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from shared.backends import embedded_jobs as jobs
from shared.backends import embedded_keyed as keyed
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

    async def create(self, job: Job, *, body: bytes, followed: bool = False) -> str:
        del followed  # Every follower is in this process and hears of every job anyway.
        return await self._database.run(lambda db: keyed.create(db, job, body, time.time()))

    async def discard(self, job: Job, *, may_come: bool = False) -> None:
        del may_come  # A message without a record is never run: `restore` refuses it.
        await self._database.run(lambda db: jobs.discard(db, job.id))

    async def restore(self, job: Job, *, body: bytes | None) -> bool:
        """Records and messages are in one file: it does not lose the one and keep the other."""
        del job, body
        return False

    async def claim(
        self, job_id: str, owner: str, lease: float, *, lost: str | None = None, with_body: bool = False
    ) -> Claim | NotClaimed:
        def claimed(outcome: Claim | NotClaimed) -> Claim | NotClaimed:
            if isinstance(outcome, Claim):
                self._hub.move(job_id, JobStatus.IN_PROGRESS)
            return outcome

        claim = await self._database.run(
            lambda db: jobs.claim(db, job_id, owner, lease, lost, time.time()), after=claimed
        )
        if with_body and isinstance(claim, Claim):
            return replace(claim, body=await self.body(job_id))
        return claim

    async def renew(self, job_id: str, attempt: int, lease: float) -> None:
        await self._database.run(lambda db: jobs.renew(db, job_id, attempt, lease, time.time()))

    async def release(self, job_id: str, attempt: int, *, counted: bool, after: float = 0.0) -> None:
        del after  # Positions go by age here.
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

    async def retry(self, job_id: str, deadline_at: float) -> bool:
        return await self._database.run(lambda db: jobs.retry(db, job_id, deadline_at, time.time()), durable=True)

    async def requeued(self, job_id: str) -> None:
        """A message that was published again is in the database, and that is what `strays` looks for."""

    async def body(self, job_id: str) -> bytes | None:
        return await self._database.run(lambda db: jobs.body(db, job_id))

    async def get(self, job_id: str) -> Job | None:
        return await self._database.run(lambda db: views.get(db, job_id, time.time()))

    async def list(
        self, tenant: str, where: JobFilter, *, after: str | None, limit: int, oldest_first: bool = False
    ) -> Sequence[Job]:
        return await self._database.run(
            lambda db: views.list_jobs(db, tenant, where, after, limit, oldest_first, time.time())
        )

    async def describe(self, job_id: str, metadata: Mapping[str, str]) -> bool:
        return await self._database.run(lambda db: jobs.describe(db, job_id, metadata, time.time()), durable=True)

    async def delete(self, job: Job) -> None:
        await self._database.run(lambda db: jobs.delete(db, job.id), durable=True)

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
