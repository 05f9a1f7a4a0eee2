"""Runs a batch: validates, executes, finalizes.

Each phase can be repeated by another runner after a crash: validation writes only the document, at its end; execution
resumes from its checkpoint (execution/lifecycle.py); finalizing is idempotent, and may send the webhook again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import orjson
import structlog

from producer.auth.keys import KeyRepository
from producer.batches.document import Batch, Problem
from producer.batches.execution.escalation import Escalation
from producer.batches.execution.lifecycle import BatchLifecycle, LifecycleContext
from producer.batches.execution.line_jobs import LineJobs
from producer.batches.execution.line_limits import LineLimit
from producer.batches.execution.outputs import Outputs
from producer.batches.execution.progress_writer import ProgressWriter
from producer.batches.forecasts import BatchForecasts
from producer.batches.input.lines import RawLine
from producer.batches.input.reader import LineSource, slowly
from producer.batches.input.validation import Duplicates, Validation, in_order
from producer.batches.key import BatchKey
from producer.batches.repository import BatchRepository
from producer.batches.webhook import send_webhook
from producer.catalog import Catalog
from producer.files.catalog import Files
from producer.files.entry import Part
from producer.http.edge.body_budget import BodyBudget
from producer.jobs.service import JobService
from producer.storage import Storage
from shared.errors import NotFound, unknown_model
from shared.ports import Backend, DocumentChanged
from shared.settings import Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")

MOST_ASKED = 100
"""Models that a batch's document names at most, to keep it small."""


@dataclass(frozen=True, slots=True)
class BatchContext:
    """What all batches of a replica share."""

    settings: Settings
    backend: Backend
    service: JobService
    catalog: Catalog
    batches: BatchRepository
    files: Files
    storage: Storage
    bodies: BodyBudget
    forecasts: BatchForecasts


class BatchRun:
    def __init__(self, batch_context: BatchContext, progress_writer: ProgressWriter) -> None:
        self._context = batch_context
        self._progress_writer = progress_writer

    @property
    def _batch(self) -> Batch:
        return self._progress_writer.batch

    async def run(self) -> None:
        """Runs the batch to its end. Raises Overtaken; Unavailable, after which it may be run again."""
        try:
            if self._batch.status == "validating":
                await self._validate()
            if self._batch.in_progress_at is not None and not self._batch.over:
                await self._execute()
        except NotFound as error:
            log.warning("batch.input_missing", batch=self._batch.id, error=str(error), next="the batch has failed")
            await self._fail((Problem(code="file_not_found", message=error.message, param="input_file_id"),))
        if not self._batch.over:
            await self._finalize()
        await self._close_files()
        await send_webhook(self._batch, self._context.settings)
        await self._context.batches.close(self._batch.id)
        batch = self._batch
        log.info("batch.over", batch=batch.id, status=batch.status, completed=batch.completed, failed=batch.failed)

    # ── validate ──

    async def _validate(self) -> None:
        validation = Validation(self._batch.endpoint, self._context.settings.batch_lines, await self._only())
        await self._check_lines(validation)
        duplicates = Duplicates(self._batch.endpoint, validation.doubtful)
        if validation.doubtful:
            async for raw in slowly(self._source()):
                await self._checked(raw, duplicates.add)
                if duplicates.full:
                    break
        if problems := in_order(validation.problems + duplicates.problems):
            await self._fail(problems)
            return
        models = list(validation.models)
        asked = tuple(models) if len(models) <= MOST_ASKED else ()

        def accepted(batch: Batch) -> Batch:
            if batch.status != "validating":
                return batch
            named = {"model": models[0]} if len(models) == 1 else {"asked": asked}
            tokens = dict(validation.tokens) if len(models) <= MOST_ASKED else {}
            return batch.with_(
                status="in_progress", in_progress_at=time.time(), total=validation.total, tokens=tokens, **named
            )

        await self._progress_writer.commit(accepted)

    async def _check_lines(self, validation: Validation) -> None:
        async for raw in slowly(self._source()):
            if (model := await self._checked(raw, validation.add)) is not None:
                try:
                    await self._require_model(model)
                except NotFound as error:
                    validation.unknown_model(model, error.message, error.code)
            if validation.full:
                break
        validation.end()

    async def _checked(self, raw: RawLine, check: Callable[[RawLine], T]) -> T:
        return await self._context.service.checks.run(raw.data or b"", lambda: check(raw))

    async def _require_model(self, name: str) -> None:
        """Raises NotFound, also for a model that the batch's key may not use."""
        model = await self._context.catalog.get(name)
        if self._batch.models and model.id not in self._batch.models:
            raise unknown_model(name)

    async def _fail(self, problems: tuple[Problem, ...]) -> None:
        await self._progress_writer.commit(
            lambda batch: batch.with_(status="failed", failed_at=time.time(), problems=problems)
        )

    async def _only(self) -> Container[int] | None:
        """Returns the hashes of the custom_ids that failed in the retried batch; None if this is no retry."""
        if self._batch.retry_of is None:
            return None
        earlier = await self._context.batches.get(self._batch.tenant, self._batch.retry_of)
        failed: set[int] = set()
        async for raw in slowly(self._source(earlier.error.file_id)):
            failed.add(hash(orjson.loads(raw.data or b"{}").get("custom_id")))
        return failed

    # ── execute ──

    def _source(self, file_id: str | None = None, *, number: int = 1, start: int = 0) -> LineSource:
        return LineSource(
            self._context.files,
            self._batch.tenant,
            file_id or self._batch.input_file_id,
            limit=self._context.settings.body_limit,
            number=number,
            start=start,
        )

    async def _execute(self) -> None:
        batch_context, batch = self._context, self._batch
        key = BatchKey(KeyRepository(batch_context.backend.documents), batch_context.backend.limiter, batch.made_with)
        context = LifecycleContext(
            progress_writer=self._progress_writer,
            jobs=LineJobs(
                batch_context.backend,
                service=batch_context.service,
                catalog=batch_context.catalog,
                settings=batch_context.settings,
                batch=batch,
                key=key,
            ),
            open_source=lambda number, start: self._source(number=number, start=start),
            outputs=Outputs(batch_context.storage, batch),
            files=batch_context.files,
            window=LineLimit(
                batch_context.backend.registry, batch_context.catalog, batch_context.settings.batch_window
            ),
            key=key,
            file_retention=batch_context.settings.file_retention,
            bodies=batch_context.bodies,
            forecasts=batch_context.forecasts,
            escalation=Escalation(batch.id, batch_context.settings.batch_escalation),
            only=await self._only(),
        )
        await BatchLifecycle(context).run()

    # ── finalize ──

    async def _finalize(self) -> None:
        """Closes the files and ends the batch. A cancelled or expired batch keeps its partial results."""
        await self._progress_writer.commit(finalizing)
        await self._close_files()
        await self._progress_writer.commit(ended)

    async def _close_files(self) -> None:
        for output in (self._batch.output, self._batch.error):
            parts = tuple(Part(key=each.key, size=each.size) for each in output.segments)
            with suppress(DocumentChanged):  # Another runner wrote the same.
                await self._context.files.complete(self._batch.tenant, output.file_id, parts)


def finalizing(batch: Batch) -> Batch:
    if batch.status == "cancelling":
        return batch
    return batch.with_(status="finalizing", finalizing_at=batch.finalizing_at or time.time())


def ended(batch: Batch) -> Batch:
    now = time.time()
    if batch.cancelling_at is not None:
        return batch.with_(status="cancelled", cancelled_at=now)
    if batch.not_run:
        return batch.with_(status="expired", expired_at=now)
    return batch.with_(status="completed", completed_at=now)
