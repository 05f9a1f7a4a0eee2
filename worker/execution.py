"""One delivery, from claim to settlement. Read it from the top: claim, attempt, settle.

Everything that can end an attempt becomes an `Outcome`; `_settle` has one clause for each. Whatever wants an attempt
to end early (a cancel, a drain, a lost lease, the deadline) says why in `stop` and closes the one scope around the
work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
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
from worker.deliveries import HeldDelivery
from worker.openai import legacy_functions, translate
from worker.outcome import Cancelled, Completed, Expired, Failed, Fenced, Interrupted, Outcome, TryAgain, ended_early
from worker.retry import retry_while_unavailable
from worker.stream.fold import Fold, plain_text
from worker.stream.frames import FrameEncoder, FrameWriter, too_large
from worker.stream.resume import Chunk, Replay, Sent, can_continue, is_constrained

log = structlog.get_logger(__name__)

INTERRUPTIONS = 2
"""How often a job may be put back for higher tiers; drains and lost workers count here as well."""

STAND_BY = 1.0
"""Seconds until a delivery whose job a live worker holds is looked at again."""


class Execution:
    """`claimed` is called once the job is claimed: from then on it may be put back."""

    def __init__(self, place: WorkerContext, delivery: Delivery, claimed: Callable[[], None] | None = None) -> None:
        self._context = place
        self._claimed = claimed
        self._delivery = HeldDelivery(delivery)
        self._claiming = Claiming(place, delivery)
        self._message = delivery.message
        self._job = delivery.message.job
        self._held: Claim | None = None
        self._store = place.backend.store
        self._scope: asyncio.Timeout | None = None
        self._stopped: Outcome | None = None
        self._request: dict[str, Any] = {}
        self._fold = Fold()
        self._writer: FrameWriter | None = None
        self._late = "The job's deadline passed."

    async def run(self) -> None:
        """Claim the job, attempt it, settle it."""
        bind_contextvars(job=self._job.id)
        claim = await self._claiming.claim()
        if isinstance(claim, NotClaimed):
            await self._pass_by(claim)
            return
        self._held = claim
        if self._claimed is not None:
            self._claimed()
        bind_contextvars(attempt=claim.attempt)
        if await retry_while_unavailable(lambda: self._context.failed_attempts.leaves(claim)):
            log.info("attempt.left", next="it failed here: another worker may have it")
            await self._hand_back(claim, counted=False, after=STAND_BY)
            return
        outcome = await self._attempt(claim)
        log.info("attempt.over", outcome=type(outcome).__name__.lower())
        await self._settle(claim, outcome)

    def stop(self, outcome: Outcome) -> None:
        """End the attempt early, with `outcome`. The first to say so wins, and be it the deadline."""
        if self._stopped is not None or (self._scope is not None and self._scope.expired()):
            return
        self._stopped = outcome
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    @property
    def yields(self) -> bool:
        """Whether the job may be put back for a higher tier: nothing it has said would have to be said again, and it
        has not been interrupted too often.
        """
        claim = self._held
        if self._stopped is not None or (claim is not None and claim.attempt - claim.tries > INTERRUPTIONS):
            return False
        continues = self._context.engine.continues_text and not is_constrained(self._request)
        return self._fold.silent or (continues and self._fold.plain)

    def put_back(self) -> bool:
        """Hand the job back, to go on later, if it is claimed and yields."""
        if self._held is None or not self.yields:
            return False
        self.stop(Interrupted())
        return True

    async def adopt(self, redelivery: Delivery) -> None:
        """The broker sent the job that runs here once more."""
        await self._delivery.adopt(redelivery)

    async def postpone(self) -> None:
        """After a crash of the execution itself, which counts as a try. A claim that cannot be given up runs out."""
        after = self._context.retry_backoff
        try:
            if self._held is not None:
                await self._store.release(self._held.job_id, self._held.attempt, counted=True, after=after)
        except Exception as error:
            after = self._context.lease_seconds
            log.warning("claim.not_released", error=str(error), next=f"it runs out in {after:.0f} s")
        await self._delivery.let_go(after=after)

    async def _pass_by(self, refusal: NotClaimed) -> None:
        """Nothing to run: the job is over or gone, or in another live worker's hands."""
        if refusal.owner is not None:
            log.info("claim.held", owner=refusal.owner, next=f"looking again in {STAND_BY:.0f} s")
            await self._delivery.let_go(after=STAND_BY)
        else:
            await self._delivery.let_go()

    # ── attempt ──

    async def _attempt(self, claim: Claim) -> Outcome:
        left = self._job.deadline_at - time.time()
        if (reason := self._given_up(claim)) is not None:
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

    def _given_up(self, claim: Claim) -> str | None:
        """Why the job is not attempted once more."""
        if claim.lost >= self._context.quarantine_after:
            log.error("job.quarantined", lost=claim.lost, next="it has failed; look at it before it is tried again")
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
        """Waits while the engine is overloaded, until the deadline, which then says so."""

        async def noted() -> Completed:
            try:
                return await answer()
            except EngineOverloaded as overloaded:
                self._late = f"The job's deadline passed while it waited for the engine. {overloaded.message}"
                raise

        return await self._context.throttle.run(noted, self._job.tier)

    async def _unary(self, request: dict[str, Any], asked: dict[str, Any]) -> Completed:
        answer = legacy_functions.completed(await self._context.engine.complete(request), asked)
        return Completed(self._fitting(translate.completion(self._job, answer)))

    def _fitting(self, result: dict[str, Any]) -> dict[str, Any]:
        """Raises AnswerTooLarge."""
        if len(orjson.dumps(result)) > self._context.log_limit:
            raise too_large(self._context.log_limit)
        return result

    def _logged(self, claim: Claim) -> bool:
        """A job that has lost a worker is logged from then on: what it gets done is kept, and clears it of blame."""
        return self._job.logged or claim.offset > 0 or claim.lost > 0

    async def _stream(self, claim: Claim, request: dict[str, Any], asked: dict[str, Any], sent: Sent) -> Completed:
        engine = self._context.engine
        going_on = engine.continues_text and can_continue(request, sent)
        replay = Replay(Sent() if going_on else sent)
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
        generated = engine.generate(request, sent.text if going_on else "")
        begun = False
        try:
            async with aclosing(legacy_functions.answered(generated, asked)) as chunks:
                async for raw in chunks:
                    begun = True
                    if frames := self._taken(replay.filter(raw), encoder):
                        writer.write(frames)
                        if writer.full:
                            await writer.drain()
        except EngineOverloaded as overloaded:
            # An answer that has begun cannot be begun again: that is a failed try.
            raise EngineError(overloaded.message) if begun else overloaded from overloaded
        if not self._fold.finished:
            raise EngineError("The engine's stream ended before its answer did.")
        return Completed(translate.completion(self._job, self._fold.completion), encoder.end(self._fold.usage))

    def _taken(self, chunk: Chunk, encoder: FrameEncoder) -> bytes:
        """The chunk's frames, once it is folded."""
        if (plain := plain_text(chunk)) is not None and encoder.has_begun(plain[0]):
            self._fold.add_text(chunk, *plain)
            return encoder.encode_text(*plain)
        self._fold.add(chunk)
        return encoder.encode(chunk)

    async def _sent_before(self, claim: Claim) -> Sent:
        """What earlier attempts have put into the log."""
        if not claim.offset:
            return Sent()
        data = await retry_while_unavailable(lambda: self._context.backend.log.read(claim.job_id))
        sent = Sent.from_log(data[: claim.offset])
        for chunk in sent.chunks:
            self._fold.add(chunk)
        log.info("attempt.resumes", frames=len(sent.chunks))
        return sent

    # ── settle ──

    async def _settle(self, claim: Claim, outcome: Outcome) -> None:
        match outcome:
            case Completed(result, frames):
                result_bytes = orjson.dumps(result)
                await self._finish(claim, Ending(JobStatus.COMPLETED, frames, result_bytes, usage=result["usage"]))
            case Failed(error):
                await self._finish(claim, self._early(JobStatus.FAILED, error))
            case Cancelled():
                await self._finish(claim, self._early(JobStatus.CANCELLED, JobCancelled("The job was cancelled.")))
            case Expired():
                await self._finish(claim, self._early(JobStatus.EXPIRED, DeadlineExceeded(self._late)))
            case TryAgain(error):
                await self._try_again(claim, error)
            case Interrupted():
                await self._hand_back(claim, counted=False, after=0.0)
            case Fenced(AttemptFenced(status=None)):
                log.warning("attempt.fenced", status=None, next="the store has lost the job: it is delivered again")
                await self._delivery.let_go(after=0.0)
            case Fenced(reason):
                log.warning("attempt.fenced", status=reason.status, next="whoever holds the claim settles the job")
                await self._delivery.let_go()
            case _:
                assert_never(outcome)

    async def _try_again(self, claim: Claim, error: IgniteError) -> None:
        tries = claim.tries + 1
        self._context.failed_attempts.note(claim)
        if tries >= self._context.max_tries:
            exhausted = AttemptsExhausted(f"All {tries} attempts failed; the last one said: {error.message}")
            await self._finish(claim, self._early(JobStatus.FAILED, exhausted))
            return
        after = self._context.retry_backoff * 2**claim.tries
        log.warning("attempt.failed", error=str(error), next=f"trying again in {after:.1f} s")
        await self._hand_back(claim, counted=True, after=after)

    async def _hand_back(self, claim: Claim, *, counted: bool, after: float) -> None:
        await self._close_writer(claim)
        try:
            await retry_while_unavailable(
                lambda: self._store.release(claim.job_id, claim.attempt, counted=counted, after=after)
            )
        except AttemptFenced as fenced:
            log.warning("attempt.fenced", status=fenced.status)
        await self._delivery.let_go(after=after)

    async def _finish(self, claim: Claim, ending: Ending) -> None:
        """Write the ending, then forget the message: a crash between the two is a redelivery of a job that is over."""
        try:
            await self._write_ending(claim, ending)
        except AttemptFenced as fenced:
            log.warning("attempt.fenced", status=fenced.status, next="its ending is dropped")
            if fenced.status is None:  # The store has lost the job: it is delivered again.
                await self._delivery.let_go(after=0.0)
                return
        await self._delivery.let_go()

    async def _write_ending(self, claim: Claim, ending: Ending) -> None:
        """With what is not in the log yet, or not any more."""
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
        """What the store has lost of this attempt's frames."""
        lost = None if self._writer is None else self._writer.lost(size)
        if lost is None:
            log.error("log.shorter", size=size, next="the job ends, and those who read on from there hear of the loss")
        return lost or b""

    async def _close_writer(self, claim: Claim) -> tuple[int, bytes]:
        return (claim.offset, b"") if self._writer is None else await self._writer.close()

    def _early(self, status: JobStatus, error: IgniteError) -> Ending:
        """An ending before the answer was whole: what there is of it is kept."""
        partial = self._fold.completion
        if not partial["choices"]:
            return ended_early(status, error)
        result = orjson.dumps(translate.completion(self._job, partial))
        return ended_early(status, error, result=result, usage=self._fold.usage)
