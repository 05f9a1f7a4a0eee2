"""Runs one delivery: claims the job, attempts it, applies the outcome.

Everything that can end an attempt becomes an `Outcome`, and `_apply` has one clause for each. A cancel, a drain, a lost
lease or the deadline ends an attempt early through `stop`, which closes the one scope around the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import assert_never

import structlog
from structlog.contextvars import bind_contextvars

from shared.errors import AttemptsExhausted, DeadlineExceeded, EngineError, IgniteError, JobCancelled
from shared.job import JobStatus
from shared.ports import AttemptFenced, Claim, Delivery, Ending, LogShorter, NotClaimed
from shared.retry import retry_while_unavailable
from worker import lease
from worker.claiming import Claiming
from worker.context import WorkerContext
from worker.deliveries import CurrentDelivery
from worker.generation import Generation
from worker.outcome import Cancelled, Completed, Expired, Failed, Fenced, Interrupted, Outcome, TryAgain, ended_early
from worker.telemetry.job_report import AttemptReport
from worker.telemetry.metrics import JOB_RETRIES

log = structlog.get_logger(__name__)

INTERRUPTIONS = 2
"""How often a job may be preempted for higher tiers; drains and lost workers count here as well."""

REDELIVERY_DELAY = 1.0
"""Seconds until a delivery whose job another live worker holds is redelivered."""


class Execution:
    """The run of one delivery. `claimed` is called once the job is claimed: from then on it may be preempted."""

    def __init__(self, context: WorkerContext, delivery: Delivery, claimed: Callable[[], None] | None = None) -> None:
        self._context = context
        self._claimed = claimed
        self._delivery = CurrentDelivery(delivery)
        self._claiming = Claiming(context, delivery)
        self._message = delivery.message
        self._job = delivery.message.job
        self._claim: Claim | None = None
        self._report: AttemptReport
        self._store = context.backend.store
        self._scope: asyncio.Timeout | None = None
        self._stopped: Outcome | None = None
        self._generation = Generation(context, self._job, delivery.message.traceparent)

    async def run(self) -> None:
        """Claims the job, attempts it and applies the outcome."""
        bind_contextvars(job=self._job.id, tenant=self._job.tenant)
        if self._job.request_id is not None:
            bind_contextvars(request_id=self._job.request_id)
        claim = await self._claiming.claim()
        if isinstance(claim, NotClaimed):
            await self._skip(claim)
            return
        self._claim = claim
        self._report = AttemptReport(self._job, claim, self._generation)
        if self._claimed is not None:
            self._claimed()
        bind_contextvars(attempt=claim.attempt)
        if await retry_while_unavailable(lambda: self._context.failed_attempts.defers(claim, self._job.model)):
            log.info("attempt.left", next="it failed here: left for another worker")
            await self._requeue(claim, counted=False, after=REDELIVERY_DELAY)
            return
        outcome = await self._attempt(claim)
        await self._apply(outcome, claim)

    def stop(self, outcome: Outcome) -> None:
        """Ends the attempt early with `outcome`. The first stop reason wins, the deadline included."""
        if self._stopped is not None or (self._scope is not None and self._scope.expired()):
            return
        self._stopped = outcome
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    @property
    def preemptible(self) -> bool:
        """Whether the job may be requeued for a higher tier: it can go on without repeating output, and has not been
        interrupted too often.
        """
        claim = self._claim
        interrupted_often = claim is not None and claim.attempt - claim.tries > INTERRUPTIONS
        return self._stopped is None and not interrupted_often and self._generation.resumable

    def preempt(self) -> bool:
        """Requeues the job, to go on later, if it is claimed and preemptible. Returns whether it did."""
        if self._claim is None or not self.preemptible:
            return False
        self.stop(Interrupted())
        return True

    async def adopt(self, redelivery: Delivery) -> None:
        """Takes over another delivery of the job that runs here."""
        await self._delivery.adopt(redelivery)

    async def retry_after_crash(self) -> None:
        """Requeues the job after the execution itself crashed, which counts as a try.

        A claim that cannot be released expires.
        """
        after = self._context.retry_backoff
        try:
            if self._claim is not None:
                await self._store.release(self._claim.job_id, self._claim.attempt, counted=True, after=after)
        except Exception as error:
            after = self._context.lease_seconds
            log.warning("claim.not_released", error=str(error), next=f"it expires in {after:.0f} s")
        await self._delivery.retry(after)

    async def _skip(self, refusal: NotClaimed) -> None:
        """Acks the delivery of a job that has ended or is gone; redelivers later that of another live worker's job."""
        if refusal.owner is not None:
            log.info("claim.held", owner=refusal.owner, next=f"redelivered in {REDELIVERY_DELAY:.0f} s")
            await self._delivery.retry(REDELIVERY_DELAY)
        else:
            await self._delivery.ack()

    # ── attempt ──

    async def _attempt(self, claim: Claim) -> Outcome:
        left = self._job.deadline_at - time.time()
        if (reason := self._exhausted(claim)) is not None:
            return Failed(AttemptsExhausted(reason))
        if self._stopped is not None or left <= 0:
            return self._stopped or Expired()
        scope = self._scope = asyncio.timeout(left)
        try:
            async with scope, lease.held(self._store, claim, self._context.lease_seconds, lost=self._claim_lost):
                return await self._generation.run(claim, self._message.body, self._claim_lost)
        except TimeoutError as error:
            if not scope.expired():
                return self._failed_with(error)
            return self._stopped or Expired()
        except Exception as error:
            return self._failed_with(error)
        finally:
            self._scope = None

    def _exhausted(self, claim: Claim) -> str | None:
        """Returns why the job is not attempted again, or None."""
        if claim.lost >= self._context.quarantine_after:
            log.error("job.quarantined", lost=claim.lost, next="the job has failed; inspect it before you requeue it")
            return f"The job lost {claim.lost} workers before it had said anything; it is not tried again."
        if claim.tries >= self._context.max_tries:
            return f"The job was tried {claim.tries} times; it is not tried again."
        return None

    def _claim_lost(self, error: BaseException) -> None:
        if isinstance(error, AttemptFenced):
            self.stop(Cancelled() if error.cancelling else Fenced(error))
        else:
            self.stop(self._failed_with(error))

    def _failed_with(self, error: BaseException) -> Outcome:
        match error:
            case AttemptFenced():
                return Cancelled() if error.cancelling else Fenced(error)
            case IgniteError(retryable=True):
                return TryAgain(error)
            case IgniteError():
                return Failed(error)
            case _:
                log.error("attempt.crashed", exc_info=error)
                return TryAgain(EngineError("The worker failed on this request."))

    # ── apply ──

    async def _apply(self, outcome: Outcome, claim: Claim) -> None:
        match outcome:
            case Completed(result, usage, frames):
                await self._finish(claim, Ending(JobStatus.COMPLETED, frames, result, usage=usage))
            case Failed(error):
                await self._finish(claim, self._ended_early(JobStatus.FAILED, error))
            case Cancelled():
                cancelled = JobCancelled("The job was cancelled.")
                await self._finish(claim, self._ended_early(JobStatus.CANCELLED, cancelled))
            case Expired():
                message = "The job's deadline passed."
                if (said := self._generation.overload) is not None:
                    message = f"The job's deadline passed while it waited for the engine. {said}"
                expired = DeadlineExceeded(message)
                await self._finish(claim, self._ended_early(JobStatus.EXPIRED, expired))
            case TryAgain(error):
                await self._try_again(claim, error)
            case Interrupted():
                log.info("attempt.over", outcome="interrupted", next="another attempt continues the job")
                await self._requeue(claim, counted=False, after=0.0)
            case Fenced(AttemptFenced(status=None)):
                log.warning("attempt.fenced", status=None, next="the store has lost the job: it is redelivered")
                await self._delivery.retry(0.0)
            case Fenced(reason):
                log.warning("attempt.fenced", status=reason.status, next="the worker that holds the claim ends the job")
                await self._delivery.ack()
            case _:
                assert_never(outcome)

    async def _try_again(self, claim: Claim, error: IgniteError) -> None:
        tries = claim.tries + 1
        self._context.failed_attempts.record(claim)
        if tries >= self._context.max_tries:
            log.warning("attempt.failed", error=str(error), code=error.code, next="no try is left: the job fails")
            exhausted = AttemptsExhausted(f"All {tries} attempts failed; the last one said: {error.message}")
            await self._finish(claim, self._ended_early(JobStatus.FAILED, exhausted))
            return
        after = self._context.retry_backoff * 2**claim.tries
        log.warning("attempt.failed", error=str(error), code=error.code, next=f"trying again in {after:.1f} s")
        JOB_RETRIES.labels(self._job.model).inc()
        await self._requeue(claim, counted=True, after=after)

    async def _requeue(self, claim: Claim, *, counted: bool, after: float) -> None:
        await self._generation.close(claim)
        try:
            await retry_while_unavailable(
                lambda: self._store.release(claim.job_id, claim.attempt, counted=counted, after=after)
            )
        except AttemptFenced as fenced:
            log.warning("attempt.fenced", status=fenced.status)
        await self._delivery.retry(after)

    async def _finish(self, claim: Claim, ending: Ending) -> None:
        """Writes the ending, then acks the delivery: a crash between the two redelivers a job that has ended.

        The ending brings the frames that the log does not have (yet, or any more).
        """
        offset, rest = await self._generation.close(claim)
        frames = rest
        while True:
            whole = replace(ending, frames=frames + ending.frames)
            finishing = partial(self._store.finish, claim.job_id, claim.attempt, offset, whole)
            try:
                await retry_while_unavailable(finishing)
                self._report.finished(ending)
                break
            except LogShorter as shorter:
                offset, frames = shorter.size, self._generation.frames_behind(shorter.size) + rest
            except AttemptFenced as fenced:
                log.warning("attempt.fenced", status=fenced.status, next="its ending is dropped")
                if fenced.status is None:  # The store has lost the job.
                    await self._delivery.retry(0.0)
                    return
                break
        await self._delivery.ack()

    def _ended_early(self, status: JobStatus, error: IgniteError) -> Ending:
        """Returns an ending that keeps the part of the answer that there is."""
        result, usage = self._generation.completion() or (None, None)
        return ended_early(status, error, result=result, usage=usage)
