"""Answers a claimed job's request with the engine, and folds what the engine says into the completion."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

import orjson
import structlog

from shared.errors import EngineError, EngineOverloaded, RequestLost
from shared.job import Job
from shared.ports import Claim
from shared.quota import LOG_ROOM
from shared.retry import retry_while_unavailable
from worker.context import WorkerContext
from worker.engines.base import Answer, EngineRequest
from worker.openai import calls, legacy_functions, translate
from worker.outcome import Completed
from worker.stream.fold import Fold, plain_text
from worker.stream.frames import FrameEncoder, FrameWriter, too_large
from worker.stream.resume import Replay, Sent, can_continue, is_constrained

log = structlog.get_logger(__name__)


class Generation:
    """One attempt's answer. `overload`: the engine's own words, if it has refused this request for its load.
    `first_chunk_at`: when the engine sent its first chunk of a streamed answer, in Unix seconds.
    """

    def __init__(self, context: WorkerContext, job: Job, traceparent: str | None = None) -> None:
        self._context = context
        self._job = job
        self._traceparent = traceparent
        self._request: dict[str, Any] = {}
        self._fold = Fold()
        self._writer: FrameWriter | None = None
        self.overload: str | None = None
        self.first_chunk_at: float | None = None

    @property
    def resumable(self) -> bool:
        """Whether another attempt can go on without repeating output."""
        continues = self._context.engine.continues_text and not is_constrained(self._request)
        return self._fold.silent or (continues and self._fold.plain)

    async def run(self, claim: Claim, body: bytes | None, lost: Callable[[BaseException], None]) -> Completed:
        """Returns the answer. `body`: the request, where the job's message has it. `lost` is called when the log
        refuses the answer's frames.
        """
        body = claim.body if body is None else body
        if body is None:
            raise RequestLost("No copy of the job's request is left.")
        asked = translate.decoded(body)
        chats = self._job.chats
        request = translate.engine_request(asked, self._job) if chats else calls.call_request(asked, self._job)
        request.traceparent = self._traceparent
        if self._context.cache_salt is not None:
            request.cache_salt = self._context.cache_salt.of(self._job.tenant, asked.get("cache_salt"))
        if not chats:
            answer = partial(self._call, request)
            return await self._context.throttle.run(answer, self._job.tier, refused=self._refused)
        self._request = request = translate.bounded(request, self._context_length(), self._context.default_max_tokens)
        # A job that has lost a worker writes to the log, so that its progress is kept and seen.
        if self._job.logged or claim.offset > 0 or claim.lost > 0:
            sent = await self._sent_before(claim)
            answer = partial(self._stream, asked, writer=self._open_writer(claim, lost), sent=sent)
        else:
            answer = partial(self._unary, asked)
        return await self._context.throttle.run(answer, self._job.tier, refused=self._refused)

    def _context_length(self) -> int | None:
        cards = self._context.engine.cards
        return next((card.context_length for card in cards if card.id == self._job.model), None)

    def completion(self) -> tuple[bytes, dict[str, Any] | None] | None:
        """Returns the part of the answer that there is, and its usage; None if there is none."""
        part = self._fold.completion
        if not part["choices"]:
            return None
        return orjson.dumps(translate.completion(self._job, part)), self._fold.usage

    async def close(self, claim: Claim) -> tuple[int, bytes]:
        """Stops writing. Returns the log's length and the frames that are not in it yet."""
        return (claim.offset, b"") if self._writer is None else await self._writer.close()

    def frames_behind(self, size: int) -> bytes:
        """Returns the frames of this attempt behind byte `size` that the store has lost."""
        lost = None if self._writer is None else self._writer.lost(size)
        if lost is None:
            log.error("log.shorter", size=size, next="the job ends, and readers that are behind get an error")
        return lost or b""

    def _refused(self, overloaded: EngineOverloaded) -> None:
        self.overload = overloaded.message

    async def _unary(self, asked: dict[str, Any]) -> Completed:
        answer = legacy_functions.completed(await self._context.engine.complete(self._request), asked)
        completed = self._completed(answer)
        if len(completed.result) > self._context.log_limit:
            raise too_large(self._context.log_limit)
        return completed

    async def _call(self, request: EngineRequest) -> Completed:
        found = await self._context.engine.call(self._job.api, request)
        # Many embeddings are millions of numbers, and other jobs of this worker go on meanwhile.
        completed = await asyncio.to_thread(self._shaped, request, found)
        if len(completed.result) > self._context.log_limit:
            raise too_large(self._context.log_limit)
        return completed

    def _shaped(self, request: EngineRequest, found: Answer) -> Completed:
        answer, usage = calls.answer(self._job, request, found)
        return Completed(orjson.dumps(answer), usage)

    def _open_writer(self, claim: Claim, lost: Callable[[BaseException], None]) -> FrameWriter:
        self._writer = FrameWriter(
            self._context.backend.log,
            claim,
            failed=lost,
            limit=self._context.log_limit,
            room=LOG_ROOM if self._job.logged else 0,
        )
        return self._writer

    async def _stream(self, asked: dict[str, Any], *, writer: FrameWriter, sent: Sent) -> Completed:
        engine = self._context.engine
        continues = can_continue(self._request, sent) and engine.continues_from(self._request, sent.text, sent.progress)
        replay = Replay(Sent() if continues else sent)
        usage = translate.include_usage(asked)
        encoder = FrameEncoder(translate.head(self._job), include_usage=usage, begun=sent.begun, ended=sent.ended)
        prefix, recorded = (sent.text, sent.progress) if continues else ("", b"")
        generated = engine.generate(self._request, prefix, recorded)
        begun, progress = False, b""
        try:
            async with aclosing(legacy_functions.answered(generated, asked)) as chunks:
                async for raw in chunks:
                    if not begun:
                        begun, self.first_chunk_at = True, time.time()
                    progress += raw.pop("progress", b"")
                    chunk = replay.filter(raw)
                    if (plain := plain_text(chunk)) is not None and encoder.has_begun(plain[0]):
                        self._fold.add_text(chunk, *plain)
                        frames = encoder.encode_text(*plain)
                    else:
                        self._fold.add(chunk)
                        frames = encoder.encode(chunk)
                    if frames:
                        writer.write(frames, progress)
                        progress = b""
                        if writer.full:
                            await writer.drain()
        except EngineOverloaded as overloaded:
            # The client has a part of the answer, so the request cannot wait and start over: a failed try.
            raise EngineError(overloaded.message) if begun else overloaded from overloaded
        if not self._fold.finished:
            raise EngineError("The engine's stream ended before its answer was complete.")
        return self._completed(self._fold.completion, encoder.end(self._fold.usage))

    def _completed(self, answer: Mapping[str, Any], frames: bytes = b"") -> Completed:
        """Encodes the answer once: the store keeps the bytes, and the API sends them."""
        result = translate.completion(self._job, answer)
        return Completed(orjson.dumps(result), result["usage"], frames)

    async def _sent_before(self, claim: Claim) -> Sent:
        """Reads from the log what earlier attempts have sent."""
        if not claim.offset:
            return Sent()
        job_log = self._context.backend.log
        data = await retry_while_unavailable(lambda: job_log.read(claim.job_id))
        sent = Sent.from_log(data[: claim.offset])
        sent.progress = await retry_while_unavailable(lambda: job_log.read_progress(claim.job_id))
        for chunk in sent.chunks:
            self._fold.add(chunk)
        log.info("attempt.resumes", frames=len(sent.chunks))
        return sent
