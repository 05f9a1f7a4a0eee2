"""Submits, follows, waits for and cancels jobs, for HTTP and gRPC."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from producer.admission.estimate import estimated_tokens
from producer.admission.gate import AdmissionGate
from producer.admission.large_requests import LargeRequestChecks
from producer.admission.media_hosts import MediaHosts
from producer.admission.rate_limits import Meter
from producer.admission.request_policy import RequestPolicy
from producer.admission.rules import check_against_model
from producer.auth.open_calls import OpenCalls, revoked
from producer.catalog import Catalog
from producer.jobs.background_retries import BackgroundRetries
from producer.jobs.submission import Submission, new_job
from producer.metrics import JOBS_SUBMITTED
from producer.webhooks.target import webhook_refusal
from shared.errors import (
    Conflict,
    DeadlineExceeded,
    Gone,
    IdempotencyKeyReused,
    IgniteError,
    JobCancelled,
    NotFound,
    QueueFull,
    RecordedError,
)
from shared.frames import error_frames
from shared.job import Job, JobStatus
from shared.ports import Backend, Ending, Follower, FollowerClosed, JobFilter, Message, ModelInfo
from shared.settings import Settings

log = structlog.get_logger(__name__)

BODY_IN_MESSAGE = 256 * 1024
"""Larger requests are kept only in the store: RabbitMQ 4 refuses messages over 16 MiB, and copies are expensive."""

PAST_THE_END = 2**53
"""A log offset beyond every log: for followers that need a job's status and not its frames."""

AT_THE_DEADLINE = 0.1
"""Seconds by which a client's clock may be ahead of the server's."""

CANCEL_PATIENCE = 5.0
"""Seconds that `cancel_and_wait` waits for a running job to end."""


@dataclass(frozen=True, slots=True)
class Call:
    """A job with a waiting client. `body`: its request, where it is known. `attached`: the job existed already and may
    have other clients. `meter` charges the job, where its API key has limits.
    """

    job: Job
    follower: Follower
    body: bytes | None = None
    attached: bool = False
    meter: Meter | None = None


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


class JobService:
    def __init__(self, backend: Backend, catalog: Catalog, settings: Settings) -> None:
        self._backend = backend
        self._catalog = catalog
        self._settings = settings
        self._background_retries = BackgroundRetries()
        self._gate = AdmissionGate(backend.scheduler, settings, self._background_retries)
        self.checks = LargeRequestChecks()
        self.policy = RequestPolicy.of(settings)
        self.media = MediaHosts()
        self.draining = False
        self.open_calls = OpenCalls()

    async def close(self) -> None:
        """Waits a moment for background retries, then cancels them."""
        self.checks.close()
        self.media.close()
        await self._background_retries.close()

    # ── submit ──

    @asynccontextmanager
    async def call(self, submission: Submission) -> AsyncGenerator[Call]:
        """Submits a request and follows its job from the first byte. A request with a known idempotency key follows the
        existing job; a retry by an SDK reattaches to the job that its broken connection left without a client.
        """
        job = await self._admit(submission)
        if (orphan := await self._reattach(submission)) is not None:
            async with self.attach(orphan, submission.body) as call:
                yield call
            return
        async with self._backend.log.follow(job.id, created_here=True) as follower:
            standing = await self._enqueue(job, submission, followed=True)
            body, meter = submission.body, submission.meter
            del submission  # Frees the parsed request; the body is kept while the client waits.
            if standing == job.id:
                yield Call(job, follower, body, meter=meter)
                return
        async with self.attach(await self.get(job.tenant, standing), body) as call:
            yield call

    async def _reattach(self, submission: Submission) -> Job | None:
        """Returns the job of a request that the SDK sends again after a broken connection, or None."""
        if submission.sent is None or not submission.sent_again:
            return None
        job_id = await self._backend.store.reattach(submission.tenant, submission.sent)
        if job_id is None:
            return None
        if submission.meter is not None:
            submission.meter.refund()  # The job was charged when it was new.
        log.info("job.reattached", job=job_id, next="the retry receives the answer of this job")
        return await self.get(submission.tenant, job_id)

    async def submit(self, submission: Submission) -> Job:
        """Submits a background request, and returns its job."""
        job = await self._admit(submission)
        standing = await self._enqueue(job, submission, followed=False)
        return job if standing == job.id else await self.get(job.tenant, standing)

    async def _admit(self, submission: Submission) -> Job:
        job = new_job(submission, self._settings)
        wrong = webhook_refusal(job.webhook_url, background=submission.background, settings=self._settings)
        if wrong is not None:
            raise wrong
        await self.media.check(self.policy.check(submission.request), submission.tenant)
        model = await self._model_for(submission)
        job.model = model.id
        job.tokens = estimated_tokens(submission.request, submission.size, model.context_length)
        await self._gate.admit(job, draining=self.draining)
        if submission.idempotency_key is None:
            await self._count(job, submission)
        return job

    async def _model_for(self, submission: Submission) -> ModelInfo:
        """Returns the requested model, after checks that it accepts the request and has or expects workers."""
        model = await self._catalog.get(submission.request.model)
        submission.principal.require_model(model.id, submission.request.model)
        await self._catalog.expect_workers(model)
        check_against_model(submission.request, model, self._settings)
        return model

    async def _count(self, job: Job, submission: Submission) -> None:
        """Charges the job to its API key. A request that may be a repetition is charged only once it is known to be
        new: a repetition follows a job that was charged before.
        """
        if submission.meter is not None:
            await submission.meter.take(job)

    async def _enqueue(self, job: Job, submission: Submission, *, followed: bool) -> str:
        """Stores and publishes the job; it is accepted once the broker has confirmed. A refused job leaves no record.
        Returns the id of the request's job: an existing one, where the request was submitted before.
        """
        queue_may_have_it = False
        try:
            standing = await self._backend.store.create(
                job, body=submission.body, followed=followed, sent=submission.sent
            )
            if standing != job.id:
                return standing
            if submission.idempotency_key is not None:
                await self._count(job, submission)
            queue_may_have_it = True
            await self._publish(job, submission.body, submission.traceparent)
        except IdempotencyKeyReused:
            raise
        except IgniteError as error:
            may_come = queue_may_have_it and not isinstance(error, QueueFull)
            refusal = error
            if submission.meter is not None:
                submission.meter.refund()
            self._background_retries.retry_until_done(
                f"discard {job.id}", lambda: self._undo(job, refusal, may_come=may_come), job.deadline_at
            )
            raise
        JOBS_SUBMITTED.labels(job.model, job.tier, job.mode).inc()
        return standing

    async def _undo(self, job: Job, refusal: IgniteError, *, may_come: bool) -> None:
        if job.idempotency_key is None:
            await self._backend.store.discard(job, may_come=may_come)
            return
        # Other calls with the same key may follow this job: they get the refusal as its error.
        await self.end_unclaimed(job.id, JobStatus.FAILED, refusal)
        await self._backend.store.delete(job)

    async def enqueue(self, job: Job, body: bytes, *, created: bool) -> None:
        """Stores, unless `created`, and publishes a job that the caller made and follows. Idempotent: the job has one
        record and runs once. Raises QueueFull, BackendUnavailable.
        """
        if not created:
            await self._backend.store.create(job, body=body, followed=True)
            JOBS_SUBMITTED.labels(job.model, job.tier, job.mode).inc()
        await self._publish(job, body)

    async def _publish(self, job: Job, body: bytes, traceparent: str | None = None) -> None:
        """Publishes the job with its request: the store and the message each keep a copy, in case one is lost."""
        message = Message(job, body if len(body) <= BODY_IN_MESSAGE else None, traceparent)
        try:
            await self._backend.queue.publish(message)
        except QueueFull as error:
            error.retry_after = self._gate.seconds_until_room(job.queue)
            raise

    async def publish_again(self, job: Job, body: bytes) -> None:
        """Publishes a job whose message the broker has lost. If the message still exists, the job runs only once.
        Raises QueueFull, BackendUnavailable.
        """
        await self._publish(job, body)
        await self._backend.store.requeued(job.id)

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

    @asynccontextmanager
    async def attach(self, job: Job, body: bytes | None = None) -> AsyncGenerator[Call]:
        """Follows an existing job from the start of its log. `body`: its request, where the caller has it."""
        async with self._backend.log.follow(job.id) as follower:
            yield Call(job, follower, body, attached=True)

    # ── recover ──

    async def restore(self, call: Call) -> bool:
        """Restores the record of a call's job that the store has lost, unless a worker did. Returns whether the call
        can go on waiting.
        """
        if call.body is None:
            return False
        if await self._backend.store.restore(call.job, body=call.body):
            log.warning("job.restored", job=call.job.id, next="the store had lost it; it waits as before")
            return True
        return await self._backend.store.get(call.job.id) is not None

    async def retry(self, job: Job) -> Job:
        """Runs a failed job again, with the same id, a new log and its original time limit. Does nothing for a queued
        or running job. Raises Conflict.
        """
        if not job.status.terminal:
            return job
        if job.status is not JobStatus.FAILED:
            raise Conflict(f"The job is {job.status}: only a failed one can be tried again.", code="not_failed")
        deadline_at = time.time() + job.deadline_at - job.created_at
        body = await self._backend.store.body(job.id)
        if body is None or not await self._backend.store.retry(job.id, deadline_at):
            raise Conflict("The job's request was not kept: send it again.", code="request_lost")
        try:
            await self._publish(replace(job, deadline_at=deadline_at), body)
        except IgniteError:
            await self.end_unclaimed(job.id, JobStatus.FAILED, RecordedError(job.error or {}))
            raise
        return await self.get(job.tenant, job.id)

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

    def abandon(self, call: Call) -> None:
        """Handles a client's disconnect: cancels its job unless the job runs on. At the deadline it expires a queued
        job instead, and leaves a running one to its worker.
        """
        if call.job.deadline_at - time.time() < AT_THE_DEADLINE:
            self._background_retries.retry_until_done(
                f"expire {call.job.id}", lambda: self.expire(call.job.id), call.job.deadline_at
            )
        elif not (call.job.detached or call.attached):
            log.info("client.gone", job=call.job.id, next="cancelling the job")
            self._background_retries.retry_until_done(
                f"cancel {call.job.id}", lambda: self.cancel(call.job.id), call.job.deadline_at
            )
