"""Runs a batch's lines as jobs: submits them, follows them to their end, and encodes the lines of the output files."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from producer.admission.estimate import estimated_tokens
from producer.admission.rules import check_against_model
from producer.batches.document import Batch, OpenLine
from producer.batches.execution.line_requests import LineRequest, LineRequests
from producer.batches.input.lines import (
    BatchLine,
    RawLine,
    answer_line,
    job_id_of,
    line_not_run,
    line_tokens,
    parse_line,
    request_id_of,
)
from producer.batches.key import BatchKey
from producer.catalog import Catalog
from producer.http.errors import error_body, status_of
from producer.jobs.jobs import PAST_THE_END
from producer.jobs.service import JobService
from producer.jobs.submission import needs_seed, stores
from producer.metrics import BATCH_LINES_ESCALATED
from shared.errors import (
    Gone,
    IgniteError,
    NotFound,
    QueueFull,
    RecordedError,
    StorageQuotaExceeded,
    Unavailable,
    unknown_model,
)
from shared.job import Job, JobStatus, Tier
from shared.ports import Backend, Ending, ModelInfo
from shared.retry import retry_while_unavailable
from shared.schema import JobRequest
from shared.settings import Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")

LOOK_AGAIN = 30.0
"""Seconds without an update after which a job's record is read; bounds the delay of a lost pub/sub message."""

TRY_AGAIN = 1.0
RETRIED = (Unavailable, QueueFull, StorageQuotaExceeded, Gone)
"""Errors after which a line is tried again: an unavailable server, a full queue or store, a lost record."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished line and its bytes, for the output file if `ok`, else for the error file. `tokens`: its estimate."""

    line: OpenLine
    data: bytes
    ok: bool = False
    not_run: bool = False
    usage: Mapping[str, Any] | None = None
    tokens: int = 0


class Stopped(Exception):
    """No more lines of the batch are run."""


class LineJobs:
    """`stop`: None while the batch runs; then the error code of the lines that were not run."""

    def __init__(
        self,
        backend: Backend,
        service: JobService,
        catalog: Catalog,
        settings: Settings,
        batch: Batch,
        key: BatchKey,
    ) -> None:
        self._backend = backend
        self._catalog = catalog
        self._service = service
        self._settings = settings
        self._batch = batch
        self._key = key
        self._requests = LineRequests(service, batch.endpoint, tenant=batch.tenant, limit=settings.body_limit)
        self._token_lock = asyncio.Lock()
        self.stop: str | None = None

    async def answer(self, raw: RawLine, *, may_exist: bool, tier: Tier = Tier.FLEX) -> Answer:
        """Runs a line to its end. `may_exist`: its job may exist already, perhaps in another tier. An invalid line gets
        an answer, no error is raised.
        """
        try:
            line = await self._checked(raw, lambda: parse_line(raw.data, self._batch.endpoint))
            answer = await self._answer_to(raw, line, may_exist=may_exist, tier=tier)
            return replace(answer, tokens=line_tokens(line, len(raw.data or b"")))
        except Stopped:
            return self.not_run(raw)
        except Exception:
            log.exception("batch.line_crashed", batch=self._batch.id, line=raw.number, next="the line has failed")
            return self._failed(raw, None, IgniteError("The server failed on this request."))

    async def _answer_to(self, raw: RawLine, line: BatchLine, *, may_exist: bool, tier: Tier) -> Answer:
        try:
            job, body = await self._admitted(raw, line)
            if tier is Tier.DEFAULT:
                job = replace(job, tier=tier)
                BATCH_LINES_ESCALATED.labels(job.model).inc()
        except IgniteError as error:
            return self._failed(raw, line, error)
        ending = await self._run(job, body, may_exist)
        return self.not_run(raw) if ending is None else await self._answer_of(raw, line, ending)

    def not_run(self, raw: RawLine) -> Answer:
        """Returns the answer of a line that is not run because the batch stopped."""
        code = self.stop or "batch_expired"
        custom_id = parse_line(raw.data, self._batch.endpoint).custom_id
        return Answer(open_line(raw), line_not_run(self._request_id(raw), custom_id, code), not_run=True)

    async def end_jobs(self, lines: Iterable[OpenLine]) -> None:
        """Cancels or expires the jobs of these lines, by `stop`."""
        await asyncio.gather(*(self._end(self._job_id(line.number)) for line in lines))

    async def _end(self, job_id: str) -> None:
        if self.stop == "batch_expired":
            await self._service.expire(job_id)
        await self._service.cancel(job_id)

    async def _checked(self, raw: RawLine, check: Callable[[], T]) -> T:
        return await self._service.checks.run(raw.data or b"", check)

    # ── the job ──

    def _job_id(self, number: int) -> str:
        return job_id_of(self._batch.id, self._batch.created_at, number)

    def _request_id(self, raw: RawLine) -> str:
        return request_id_of(self._batch.id, raw.number)

    async def _admitted(self, raw: RawLine, line: BatchLine) -> tuple[Job, bytes]:
        """Returns the line's job and its request. Raises IgniteError if the request is invalid."""
        found = await self._requests.of(raw, line)
        request = found.request
        await self._service.media.check(self._service.policy.check(request), self._batch.tenant)
        model = await self._model(line.model)
        if self._batch.models and model.id not in self._batch.models:
            raise unknown_model(line.model)
        check_against_model(request, model, self._settings, api=self._requests.api)
        return self._job(raw, line, found, model=model), found.body

    async def _model(self, name: str) -> ModelInfo:
        """Returns the model, and waits for one that is missing: validation found it, so it may come back. Raises
        Stopped.
        """
        while self.stop is None:
            try:
                return await self._catalog.get(name)
            except (Unavailable, NotFound):
                await asyncio.sleep(TRY_AGAIN)
        raise Stopped

    def _job(self, raw: RawLine, line: BatchLine, found: LineRequest, model: ModelInfo) -> Job:
        request = found.request
        return Job(
            id=self._job_id(raw.number),
            tenant=self._batch.tenant,
            model=model.id,
            tier=Tier.FLEX,
            mode="unary",
            created_at=time.time(),
            deadline_at=self._deadline(request),
            retention=self._retention(request),
            detached=True,
            stored=stores(request),
            api=self._requests.api,
            seed=int.from_bytes(os.urandom(4)) >> 1 if needs_seed(request) else None,
            tokens=estimated_tokens(request, found.size, model.context_length),
            made_with=self._batch.made_with,
            request_id=self._request_id(raw),
            limit_key=self._key.counted_as,
            weight=self._batch.weight,
            window_end=self._deadline(request),
            metadata={**(request.metadata or {}), "batch_id": self._batch.id, "custom_id": line.custom_id},
        )

    def _retention(self, request: JobRequest) -> float:
        if not stores(request):
            return self._settings.retention
        return self._settings.store_retention if self._requests.api == "chat" else self._settings.job_retention

    def _deadline(self, request: JobRequest) -> float:
        return min(self._batch.expires_at, time.time() + (request.deadline_seconds or float("inf")))

    async def _run(self, job: Job, body: bytes, may_exist: bool) -> Ending | None:
        """Runs the job and returns its ending; None if the batch stopped before the job existed."""
        while True:
            try:
                stored = await self._backend.store.get(job.id) if may_exist else None
                if stored is None and self.stop is not None:
                    return None
                if stored is None:
                    await self._take_tokens(job)
                ending = ending_of(stored) or await self._follow(job, body, stored)
                if ending.status is not JobStatus.COMPLETED or ending.result is not None:
                    return ending
            except RETRIED as error:
                log.warning("batch.line_delayed", job=job.id, error=str(error), next="trying again")
                await asyncio.sleep(TRY_AGAIN * random.uniform(0.5, 1.5))
            may_exist = True

    async def _take_tokens(self, job: Job) -> None:
        """Waits until the key's tokens per minute leave room for the line, one line at a time. Raises Stopped."""
        async with self._token_lock:
            while self.stop is None:
                if (wait := await self._key.take(job)) <= 0:
                    return
                await asyncio.sleep(wait)
        raise Stopped

    async def _follow(self, job: Job, body: bytes, stored: Job | None) -> Ending:
        """Submits the job if it is not stored, publishes it again if it is queued, because its message may be missing,
        and waits for its end. A large result is not part of the ending.
        """
        job = job if stored is None else replace(job, tier=stored.tier)
        async with self._backend.log.follow(job.id, PAST_THE_END, created_here=stored is None) as follower:
            if stored is None or stored.status is JobStatus.QUEUED:
                await self._service.enqueue(job, body, created=stored is not None)
            while True:
                update = await follower.next(LOOK_AGAIN)
                if update is not None and update.ending is not None:
                    return update.ending

    # ── the answer ──

    async def _answer_of(self, raw: RawLine, line: BatchLine, ending: Ending) -> Answer:
        if ending.status is JobStatus.COMPLETED and ending.result is not None:
            job_id = self._job_id(raw.number)
            body = await self._response(job_id) if self._requests.api == "responses" else ending.result
            data = answer_line(self._request_id(raw), line.custom_id, job_id, status=200, body=body)
            return Answer(open_line(raw), data, ok=True, usage=ending.usage)
        if ending.status is JobStatus.EXPIRED and time.time() >= self._batch.expires_at:
            self.stop = self.stop or "batch_expired"
        if self.stop is not None and ending.status in (JobStatus.CANCELLED, JobStatus.EXPIRED):
            return self.not_run(raw)
        return self._failed(raw, line, RecordedError(ending.error or {"message": f"The job is {ending.status}."}))

    async def _response(self, job_id: str) -> bytes:
        """Returns the response of a completed job, read again while the store does not answer."""
        job = await retry_while_unavailable(lambda: self._service.get(self._batch.tenant, job_id))
        return await retry_while_unavailable(lambda: self._requests.answer(job))

    def _failed(self, raw: RawLine, line: BatchLine | None, error: IgniteError) -> Answer:
        custom_id = "" if line is None else line.custom_id
        body = error_body(self._requests.told(error).to_dict())
        job_id = self._job_id(raw.number)
        return Answer(
            open_line(raw), answer_line(self._request_id(raw), custom_id, job_id, status=status_of(error), body=body)
        )


def open_line(raw: RawLine) -> OpenLine:
    return OpenLine(number=raw.number, start=raw.start, end=raw.end)


def ending_of(job: Job | None) -> Ending | None:
    """Returns the ending of a job that is over, else None."""
    if job is None or not job.status.terminal:
        return None
    return Ending(job.status, result=job.result, usage=job.usage, error=job.error)
