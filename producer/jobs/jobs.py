"""Reads, awaits, ends and deletes jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from producer.admission.gate import AdmissionGate
from producer.auth.open_calls import OpenCalls, revoked
from producer.catalog import Catalog
from shared.errors import Conflict, DeadlineExceeded, Gone, IgniteError, JobCancelled, NotFound, RecordedError
from shared.frames import error_frames
from shared.job import Job, JobStatus
from shared.ports import Backend, Ending, FollowerClosed, JobFilter

PAST_THE_END = 2**53
"""A log offset beyond every log: for followers that need a job's status and not its frames."""

CANCEL_PATIENCE = 5.0
"""Seconds that `cancel_and_wait` waits for a running job to end."""


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """A job's status and queue position. `position` counts from 0 and is None once the job runs; `eta` in seconds;
    `alive`: its worker is alive; `workers`: how many workers serve its model.
    """

    status: JobStatus
    position: int | None
    eta: float | None
    alive: bool
    workers: int | None = None


class Jobs:
    """The part of JobService that works on jobs that exist."""

    def __init__(self, backend: Backend, catalog: Catalog, gate: AdmissionGate) -> None:
        self._backend = backend
        self._catalog = catalog
        self._gate = gate
        self.open_calls = OpenCalls()

    # ── read ──

    async def get(self, tenant: str, job_id: str) -> Job:
        """Returns the tenant's job. Raises NotFound (also for another tenant's job), Gone."""
        job = await self._backend.store.get(job_id)
        if job is not None and job.tenant == tenant:
            return await self._expired_in_queue(job)
        if await self._backend.store.knew(tenant, job_id):
            raise Gone(f"The data of job '{job_id}' has expired.")
        raise NotFound(f"No job '{job_id}'.")

    async def _expired_in_queue(self, job: Job) -> Job:
        """Expires a queued job past its deadline: the broker drops its message only at the head of the queue."""
        if job.status is not JobStatus.QUEUED or job.deadline_at > time.time():
            return job
        await self.expire(job.id)
        return await self._backend.store.get(job.id) or job

    async def list(
        self, tenant: str, where: JobFilter, *, after: str | None, limit: int, oldest_first: bool = False
    ) -> tuple[Sequence[Job], bool]:
        """Returns a page of jobs, newest first unless `oldest_first`, and whether there are more."""
        jobs = await self._backend.store.list(tenant, where, after=after, limit=limit + 1, oldest_first=oldest_first)
        return jobs[:limit], len(jobs) > limit

    async def get_stored(self, tenant: str, job_id: str) -> Job:
        """Returns the job of a stored completion. Raises NotFound, Gone."""
        job = await self.get(tenant, job_id)
        if not job.stored_completion or job.status is not JobStatus.COMPLETED:
            raise NotFound(f"No stored completion '{job_id}'.")
        return job

    async def request_of(self, job: Job) -> bytes:
        """Returns the request's bytes as the client sent them. Raises Gone when they are deleted."""
        body = await self._backend.store.body(job.id)
        if body is None:
            raise Gone(f"The request of job '{job.id}' is not kept any more.")
        return body

    async def wait_change(self, job: Job, seconds: float, *, key: str | None = None) -> Job:
        """Returns the job when its status changes, or after `seconds`. Raises AuthenticationFailed once the caller's
        API `key` is revoked.
        """
        if job.status.terminal or seconds <= 0:
            return job
        until = time.monotonic() + seconds
        async with self._backend.log.follow(job.id, PAST_THE_END) as follower:
            with self.open_calls.ended_with(key, follower.close):
                while (left := until - time.monotonic()) > 0:
                    try:
                        update = await follower.next(left)
                    except FollowerClosed:
                        raise revoked() from None
                    if update is None or update.status is not job.status:
                        break
        return await self.get(job.tenant, job.id)

    async def result(self, job: Job) -> bytes:
        """Returns the completion's bytes. Raises Conflict before the job's end, or the job's error."""
        if not job.status.terminal:
            raise Conflict(f"The job is {job.status}: it has no result yet.", code="not_finished", retry_after=1)
        if job.status is JobStatus.COMPLETED and job.result is not None:
            return job.result
        raise RecordedError(job.error or {"message": f"The job is {job.status}."})

    async def queue_position(self, job: Job) -> QueuePosition:
        """Returns the job's status and queue position."""
        now = await self._backend.store.get(job.id)
        if now is None:
            return QueuePosition(JobStatus.QUEUED, None, None, alive=False)
        if now.status is JobStatus.QUEUED:
            position = await self._backend.scheduler.position(now)
            workers = await self._catalog.workers(now.model)
            eta = self._gate.eta(now, position)
            return QueuePosition(now.status, position, eta if workers else None, alive=False, workers=workers)
        alive = now.owner is not None and await self._backend.registry.alive(now.owner)
        return QueuePosition(now.status, None, None, alive=alive)

    # ── end ──

    async def cancel(self, job_id: str) -> None:
        """Requests cancellation. Idempotent; does nothing once the job has ended."""
        error = JobCancelled("The job was cancelled.").to_dict()
        await self._backend.store.cancel(job_id, Ending(JobStatus.CANCELLED, error_frames(error), error=error))

    async def cancel_and_wait(self, job: Job) -> Job:
        """Cancels the job and waits up to CANCEL_PATIENCE seconds for its end; returns it as it then is."""
        await self.cancel(job.id)
        return await self.wait_change(await self.get(job.tenant, job.id), CANCEL_PATIENCE)

    async def delete(self, job: Job) -> None:
        """Deletes a job; cancels it first if it has not ended."""
        if not job.status.terminal:
            job = await self.cancel_and_wait(job)
        await self._backend.store.delete(job)

    async def describe(self, job: Job, metadata: dict[str, str]) -> Job:
        """Replaces the job's metadata, and returns the job. Raises NotFound, Gone."""
        await self._backend.store.describe(job.id, metadata)
        return await self.get(job.tenant, job.id)

    async def expire(self, job_id: str, *, owner: str | None = None) -> None:
        """Ends a job whose deadline passed in the queue."""
        late = DeadlineExceeded("The job's deadline passed while it was queued.", code="deadline_exceeded_in_queue")
        await self.end_unclaimed(job_id, JobStatus.EXPIRED, late, owner=owner)

    async def end_unclaimed(
        self, job_id: str, status: JobStatus, error: IgniteError, *, owner: str | None = None
    ) -> None:
        """Ends a job that no live worker runs. `owner`: the dead worker that had claimed it."""
        record = error.to_dict()
        ending = Ending(status, error_frames(record), error=record)
        await self._backend.store.end_unclaimed(job_id, ending, owner=owner)
