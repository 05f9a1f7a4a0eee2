"""Runs one delivery: claims the job, attempts it, applies the outcome.

Everything that can end an attempt becomes an `Outcome`, and `_apply` has one clause for each. A cancel, a drain, a lost
lease or the deadline ends an attempt early through `stop`, which closes the one scope around the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, assert_never

import orjson
import structlog
from structlog.contextvars import bind_contextvars

from shared.errors import (
    AttemptsExhausted,
    DeadlineExceeded,
    EngineError,
    EngineOverloaded,
    IgniteError,
    JobCancelled,
    RequestLost,
)
from shared.job import JobStatus
from shared.ports import AttemptFenced, Claim, Delivery, Ending, LogShorter, NotClaimed
from shared.quota import LOG_ROOM
from worker import lease
from worker.claiming import Claiming
from worker.context import WorkerContext
from worker.deliveries import CurrentDelivery
from worker.openai import legacy_functions, translate
from worker.outcome import Cancelled, Completed, Expired, Failed, Fenced, Interrupted, Outcome, TryAgain, ended_early
from worker.retry import retry_while_unavailable
from worker.stream.fold import Fold, plain_text
from worker.stream.frames import FrameEncoder, FrameWriter, too_large
from worker.stream.resume import Chunk, Replay, Sent, can_continue, is_constrained

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
        self._store = context.backend.store
        self._scope: asyncio.Timeout | None = None
        self._stopped: Outcome | None = None
        self._request: dict[str, Any] = {}
        self._fold = Fold()
        self._writer: FrameWriter | None = None
        self._deadline_message = "The job's deadline passed."

    async def run(self) -> None:
        """Claims the job, attempts it and applies the outcome."""
        bind_contextvars(job=self._job.id)
        claim = await self._claiming.claim()
        if isinstance(claim, NotClaimed):
            await self._skip(claim)
            return
        self._claim = claim
        if self._claimed is not None:
            self._claimed()
        bind_contextvars(attempt=claim.attempt)
        if await retry_while_unavailable(lambda: self._context.failed_attempts.defers(claim)):
            log.info("attempt.left", next="it failed here: left for another worker")
            await self._requeue(claim, counted=False, after=REDELIVERY_DELAY)
            return
        outcome = await self._attempt(claim)
        log.info("attempt.over", outcome=type(outcome).__name__.lower())
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
        if self._stopped is not None or (claim is not None and claim.attempt - claim.tries > INTERRUPTIONS):
            return False
        continues = self._context.engine.continues_text and not is_constrained(self._request)
        return self._fold.silent or (continues and self._fold.plain)

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
                return await self._generate(claim)
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

    async def _generate(self, claim: Claim) -> Completed:
        body = claim.body if self._message.body is None else self._message.body
        if body is None:
            raise RequestLost("No copy of the job's request is left.")
        asked = translate.decoded(body)
        request = translate.engine_request(asked, self._job)
        self._request = request = translate.bounded(request, self._context.engine.card.context_length)
        if not self._logged(claim):
            return await self._throttled(partial(self._unary, request, asked))
        sent = await self._sent_before(claim)
        return await self._throttled(partial(self._stream, claim, request, asked, sent))

    async def _throttled(self, answer: Callable[[], Awaitable[Completed]]) -> Completed:
        """Sends the request again while the engine is overloaded. The deadline's error then has the engine's words."""

        async def attempt() -> Completed:
            try:
                return await answer()
            except EngineOverloaded as overloaded:
                self._deadline_message = (
                    f"The job's deadline passed while it waited for the engine. {overloaded.message}"
                )
                raise

        return await self._context.throttle.run(attempt, self._job.tier)

    async def _unary(self, request: dict[str, Any], asked: dict[str, Any]) -> Completed:
        answer = legacy_functions.completed(await self._context.engine.complete(request), asked)
        completed = self._completed(answer)
        if len(completed.result) > self._context.log_limit:
            raise too_large(self._context.log_limit)
        return completed

    def _completed(self, answer: Mapping[str, Any], frames: bytes = b"") -> Completed:
        """Encodes the answer once: the store keeps the bytes, and the API sends them."""
        result = translate.completion(self._job, answer)
        return Completed(orjson.dumps(result), result["usage"], frames)

    def _logged(self, claim: Claim) -> bool:
        """Whether the job writes to the log: one that has lost a worker does, so that its progress is kept and seen."""
        return self._job.logged or claim.offset > 0 or claim.lost > 0

    async def _stream(self, claim: Claim, request: dict[str, Any], asked: dict[str, Any], sent: Sent) -> Completed:
        engine = self._context.engine
        continues = engine.continues_text and can_continue(request, sent)
        replay = Replay(Sent() if continues else sent)
        usage = translate.include_usage(asked)
        encoder = FrameEncoder(translate.head(self._job), include_usage=usage, begun=sent.begun, ended=sent.ended)
        writer = self._writer = FrameWriter(
            self._context.backend.log,
            claim.job_id,
            claim.attempt,
            offset=claim.offset,
            failed=self._claim_lost,
            limit=self._context.log_limit,
            room=LOG_ROOM if self._job.logged else 0,
        )
        generated = engine.generate(request, sent.text if continues else "")
        begun = False
        try:
            async with aclosing(legacy_functions.answered(generated, asked)) as chunks:
                async for raw in chunks:
                    begun = True
                    if frames := self._encoded(replay.filter(raw), encoder):
                        writer.write(frames)
                        if writer.full:
                            await writer.drain()
        except EngineOverloaded as overloaded:
            # The client has a part of the answer, so the request cannot wait and start over: a failed try.
            raise EngineError(overloaded.message) if begun else overloaded from overloaded
        if not self._fold.finished:
            raise EngineError("The engine's stream ended before its answer did.")
        return self._completed(self._fold.completion, encoder.end(self._fold.usage))

    def _encoded(self, chunk: Chunk, encoder: FrameEncoder) -> bytes:
        """Folds the chunk and returns its frames."""
        if (plain := plain_text(chunk)) is not None and encoder.has_begun(plain[0]):
            self._fold.add_text(chunk, *plain)
            return encoder.encode_text(*plain)
        self._fold.add(chunk)
        return encoder.encode(chunk)

    async def _sent_before(self, claim: Claim) -> Sent:
        """Reads from the log what earlier attempts have sent."""
        if not claim.offset:
            return Sent()
        data = await retry_while_unavailable(lambda: self._context.backend.log.read(claim.job_id))
        sent = Sent.from_log(data[: claim.offset])
        for chunk in sent.chunks:
            self._fold.add(chunk)
        log.info("attempt.resumes", frames=len(sent.chunks))
        return sent

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
                expired = DeadlineExceeded(self._deadline_message)
                await self._finish(claim, self._ended_early(JobStatus.EXPIRED, expired))
            case TryAgain(error):
                await self._try_again(claim, error)
            case Interrupted():
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
            exhausted = AttemptsExhausted(f"All {tries} attempts failed; the last one said: {error.message}")
            await self._finish(claim, self._ended_early(JobStatus.FAILED, exhausted))
            return
        after = self._context.retry_backoff * 2**claim.tries
        log.warning("attempt.failed", error=str(error), next=f"trying again in {after:.1f} s")
        await self._requeue(claim, counted=True, after=after)

    async def _requeue(self, claim: Claim, *, counted: bool, after: float) -> None:
        await self._close_writer(claim)
        try:
            await retry_while_unavailable(
                lambda: self._store.release(claim.job_id, claim.attempt, counted=counted, after=after)
            )
        except AttemptFenced as fenced:
            log.warning("attempt.fenced", status=fenced.status)
        await self._delivery.retry(after)

    async def _finish(self, claim: Claim, ending: Ending) -> None:
        """Writes the ending, then acks the delivery: a crash between the two redelivers a job that has ended."""
        try:
            await self._write_ending(claim, ending)
        except AttemptFenced as fenced:
            log.warning("attempt.fenced", status=fenced.status, next="its ending is dropped")
            if fenced.status is None:  # The store has lost the job.
                await self._delivery.retry(0.0)
                return
        await self._delivery.ack()

    async def _write_ending(self, claim: Claim, ending: Ending) -> None:
        """Writes the ending with the frames that the log does not have (yet, or any more)."""
        offset, rest = await self._close_writer(claim)
        frames = rest
        while True:
            whole = replace(ending, frames=frames + ending.frames)
            finishing = partial(self._store.finish, claim.job_id, claim.attempt, offset, whole)
            try:
                return await retry_while_unavailable(finishing)
            except LogShorter as shorter:
                offset, frames = shorter.size, self._lost(shorter.size) + rest

    def _lost(self, size: int) -> bytes:
        """Returns the frames of this attempt behind byte `size` that the store has lost."""
        lost = None if self._writer is None else self._writer.lost(size)
        if lost is None:
            log.error("log.shorter", size=size, next="the job ends, and readers that are behind get an error")
        return lost or b""

    async def _close_writer(self, claim: Claim) -> tuple[int, bytes]:
        return (claim.offset, b"") if self._writer is None else await self._writer.close()

    def _ended_early(self, status: JobStatus, error: IgniteError) -> Ending:
        """Returns an ending that keeps the part of the answer that there is."""
        partial = self._fold.completion
        if not partial["choices"]:
            return ended_early(status, error)
        result = orjson.dumps(translate.completion(self._job, partial))
        return ended_early(status, error, result=result, usage=self._fold.usage)
