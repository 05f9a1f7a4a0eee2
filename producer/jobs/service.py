"""Submits, follows, waits for and cancels jobs, for HTTP and gRPC."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
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
from producer.catalog import Catalog
from producer.jobs.background_retries import BackgroundRetries
from producer.jobs.jobs import Jobs
from producer.jobs.submission import Submission, new_job
from producer.metrics import JOBS_SUBMITTED
from producer.webhooks.target import webhook_refusal
from shared.errors import (
    Conflict,
    IdempotencyKeyReused,
    IgniteError,
    QueueFull,
    RecordedError,
)
from shared.job import Job, JobStatus
from shared.ports import Backend, Follower, Message, ModelInfo
from shared.settings import Settings

log = structlog.get_logger(__name__)

BODY_IN_MESSAGE = 256 * 1024
"""Larger requests are kept only in the store: RabbitMQ 4 refuses messages over 16 MiB, and copies are expensive."""

AT_THE_DEADLINE = 0.1
"""Seconds by which a client's clock may be ahead of the server's."""


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


class JobService(Jobs):
    def __init__(self, backend: Backend, catalog: Catalog, settings: Settings) -> None:
        background_retries = BackgroundRetries()
        super().__init__(backend, catalog, AdmissionGate(backend.scheduler, settings, background_retries))
        self._settings = settings
        self._background_retries = background_retries
        self.checks = LargeRequestChecks()
        self.policy = RequestPolicy.of(settings)
        self.media = MediaHosts()
        self.draining = False

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
        check_against_model(submission.request, model, self._settings, api=submission.api)
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

    # ── follow ──

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
