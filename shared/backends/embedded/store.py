"""The embedded backend's store: each call is one transaction, followed by the notification of the followers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from shared.backends.embedded.database import idempotency as keyed
from shared.backends.embedded.database import jobs, views
from shared.backends.embedded.database import metadata_index as pairs
from shared.backends.embedded.database.connection import Database
from shared.backends.embedded.database.purge import Purge
from shared.backends.embedded.fair_queue import EmbeddedFairQueues
from shared.backends.embedded.limiter import EmbeddedLimiter
from shared.backends.embedded.log import notify_ended
from shared.backends.embedded.registry import EmbeddedRegistry
from shared.backends.follower_hub import FollowerHub
from shared.errors import AttemptsExhausted
from shared.job import Job, JobStatus
from shared.limits import tokens_used
from shared.ports import Claim, Ending, JobFilter, NotClaimed


class EmbeddedStore:
    """A create is not synced to disk by itself: the publish that follows it syncs both."""

    def __init__(
        self,
        database: Database,
        hub: FollowerHub,
        *,
        registry: EmbeddedRegistry,
        scheduler: EmbeddedFairQueues,
        purge: Purge,
        limiter: EmbeddedLimiter,
        tenant_limit: int,
    ) -> None:
        self._database = database
        self._hub = hub
        self._registry = registry
        self._purge = purge
        self._limiter = limiter
        self._scheduler = scheduler
        self._tenant_limit = tenant_limit

    async def create(self, job: Job, *, body: bytes, followed: bool = False, sent: str | None = None) -> str:
        del followed  # Every follower is in this process and is notified anyway.
        return await self._database.run(
            lambda db: keyed.create(db, job, body, sent=sent, now=time.time(), limit=self._tenant_limit),
            after=lambda holder: self._created(job, holder),
        )

    async def reattach(self, tenant: str, sent: str) -> str | None:
        followed = self._hub.__contains__
        return await self._database.run(lambda db: jobs.reattach(db, tenant, sent, followed=followed, now=time.time()))

    def _created(self, job: Job, holder: str) -> str:
        if holder == job.id:
            self._scheduler.add(job)
        return holder

    async def discard(self, job: Job, *, may_come: bool = False) -> None:
        del may_come  # A message without a record is never run: `restore` refuses it.
        await self._database.run(lambda db: jobs.discard(db, job.id), after=lambda _: self._scheduler.remove(job.id))

    async def restore(self, job: Job, *, body: bytes | None) -> bool:
        """Restores nothing: records and messages are in one file, so none is lost without the other."""
        del job, body
        return False

    async def claim(
        self, job_id: str, owner: str, lease: float, *, lost: str | None = None, with_body: bool = False
    ) -> Claim | NotClaimed:
        def claimed(outcome: Claim | NotClaimed) -> Claim | NotClaimed:
            if isinstance(outcome, Claim):
                self._scheduler.start(job_id)
                self._hub.move(job_id, JobStatus.IN_PROGRESS)
            return outcome

        claim = await self._database.run(
            lambda db: jobs.claim(db, job_id, owner, lease=lease, lost=lost, now=time.time()), after=claimed
        )
        if with_body and isinstance(claim, Claim):
            return replace(claim, body=await self.body(job_id))
        return claim

    async def renew(self, job_id: str, attempt: int, lease: float) -> None:
        await self._database.run(lambda db: jobs.renew(db, job_id, attempt, lease=lease, now=time.time()))

    async def release(self, job_id: str, attempt: int, *, counted: bool, after: float = 0.0) -> None:
        def released(status: JobStatus) -> None:
            self._scheduler.requeue(job_id, time.time() + after if after > 0 else 0.0)
            self._hub.move(job_id, status)

        await self._database.run(
            lambda db: jobs.release(db, job_id, attempt, counted=counted, now=time.time()), after=released
        )

    async def finish(self, job_id: str, attempt: int, offset: int, ending: Ending) -> None:
        await self._database.run(
            lambda db: jobs.finish(db, job_id, attempt, offset=offset, ending=ending, now=time.time()),
            after=lambda ended: self._publish_outcome(job_id, ended),
            durable=True,
        )

    async def end_unclaimed(self, job_id: str, ending: Ending, *, owner: str | None = None) -> bool:
        return await self._database.run(
            lambda db: jobs.end_unclaimed(db, job_id, ending, owner=owner, now=time.time()),
            after=lambda ended: self._publish_outcome(job_id, ended),
            durable=True,
        )

    async def cancel(self, job_id: str, ending: Ending) -> None:
        await self._database.run(
            lambda db: jobs.cancel(db, job_id, ending, alive=self._registry.joined, now=time.time()),
            after=lambda outcome: self._publish_outcome(job_id, outcome),
            durable=True,
        )

    async def retry(self, job_id: str, deadline_at: float) -> bool:
        done = await self._database.run(lambda db: jobs.retry(db, job_id, deadline_at, now=time.time()), durable=True)
        if done and (job := await self.get(job_id)) is not None:
            self._scheduler.add(job)
        return done

    async def requeued(self, job_id: str) -> None:
        """Does nothing: `orphans` looks for messages in the database."""

    async def body(self, job_id: str) -> bytes | None:
        return await self._database.run(lambda db: jobs.body(db, job_id))

    async def get(self, job_id: str) -> Job | None:
        return await self._database.run(lambda db: views.get(db, job_id, time.time()))

    async def list(
        self, tenant: str, where: JobFilter, *, after: str | None, limit: int, oldest_first: bool = False
    ) -> Sequence[Job]:
        return await self._database.run(
            lambda db: views.list_jobs(
                db, tenant, where, after=after, limit=limit, oldest_first=oldest_first, now=time.time()
            )
        )

    async def dead(self, *, model: str | None = None, after: str | None = None, limit: int) -> Sequence[Job]:
        where = JobFilter(JobStatus.FAILED, model, AttemptsExhausted.default_code)
        return await self._database.run(
            lambda db: views.list_jobs(db, None, where, after=after, limit=limit, oldest_first=False, now=time.time())
        )

    async def describe(self, job_id: str, metadata: Mapping[str, str]) -> bool:
        return await self._database.run(lambda db: pairs.describe(db, job_id, metadata, time.time()), durable=True)

    async def delete(self, job: Job) -> None:
        def deleted(_: None) -> None:
            self._scheduler.remove(job.id)
            self._charge_limit(job.limit_key, job.id, None)

        await self._database.run(lambda db: jobs.delete(db, job.id), after=deleted, durable=True)

    async def knew(self, tenant: str, job_id: str) -> bool:
        return await self._database.run(lambda db: views.knew(db, tenant, job_id))

    def _charge_limit(self, key: str | None, job_id: str, used: int | None) -> None:
        if key is not None:
            self._limiter.charge(key, job_id, used=used)

    def _publish_outcome(self, job_id: str, outcome: jobs.Ended | jobs.CancelRequested | None) -> bool:
        """Notifies followers or the owner; returns whether the job has ended with this step."""
        match outcome:
            case jobs.Ended():
                used = tokens_used(outcome.ending.status, outcome.ending.usage, outcome.said)
                self._charge_limit(outcome.limit_key, job_id, used)
                self._scheduler.remove(job_id, (outcome.ending.usage or {}).get("total_tokens"))
                notify_ended(self._hub, job_id, outcome)
                self._purge.expect(outcome.purge_at)
            case jobs.CancelRequested(owner):
                self._registry.ask_to_stop(owner, job_id)
            case None:
                pass
        return isinstance(outcome, jobs.Ended)
