"""Executes a batch: starts lines as jobs, as many per model as its workers can use (line_scheduler.py, line_limits.py),
and writes the answers, in the order in which they arrive, to segments and to the batch's document, in checkpoints.

Each input line gets exactly one output line, even if processes die, for four reasons.

- *The document is authoritative.* It names the outputs' segments, the counts, the position up to which lines were
  started, and which of the started lines are still open. One write changes all of it, over the version that was read.
- *A segment is an object of its own*, and its key contains the runner's generation. The reaper removes segments that no
  document names.
- *A job's id follows from batch and line.* Starting a line twice creates one job.
- *A runner that lost the batch cannot write*: its successor has increased the generation and thereby the version.

If a runner dies, or is suspended and resumes while another one runs the batch, its successor acts by the point that the
old runner had reached:

    the line's job does not exist yet       the line is not started, or open: starts it
    job created, not published              finds the job queued, and publishes it again
    job published, no checkpoint since      starts the line again, and finds the job
    job over, answer not read               reads the answer from the job's record
    job's record expired or lost            creates and runs the job again; no answer was written
    answers read, no segment written        as above: the lines are still open
    segment written, no checkpoint          no document names the segment; writes the open lines again
    checkpoint written, response lost       (same runner) writes it again, and finds it stored
    segments merged, no checkpoint          the small segments are still valid; no document names the merged one
    merged, small segments not removed      no document names them; the reaper removes them
    finalizing                              repeats it: each step is idempotent (run.py)
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from producer.batches.document import Batch, OpenLine, Output, Problem, Segment
from producer.batches.execution.escalation import Escalation
from producer.batches.execution.line_jobs import Answer, LineJobs, open_line
from producer.batches.execution.line_limits import MOST_OF_ALL, LineLimit
from producer.batches.execution.line_scheduler import LineScheduler, OpenSource
from producer.batches.execution.outputs import Outputs, entry_of
from producer.batches.execution.progress_writer import ProgressWriter
from producer.batches.forecasts import BatchForecasts
from producer.batches.input.lines import RawLine, parse_line
from producer.batches.key import BatchKey
from producer.files.catalog import Files
from producer.http.edge.body_budget import BodyBudget
from shared.errors import BackendUnavailable, StorageQuotaExceeded
from shared.job import Tier

log = structlog.get_logger(__name__)

CHECKPOINT_EVERY = 0.5
"""Seconds between checkpoints; a checkpoint with CHECKPOINT_SIZE bytes or CHECKPOINT_LINES lines is written earlier."""

CHECKPOINT_SIZE = 1024 * 1024
CHECKPOINT_LINES = 2000
POLL_INTERVAL = 1.0
"""Seconds between two reads of the batch's document and key, which show a cancel and a revocation."""


@dataclass(frozen=True, slots=True)
class LifecycleContext:
    """`file_retention` in seconds. `only`: hashes of the custom_ids to run, None for all."""

    progress_writer: ProgressWriter
    jobs: LineJobs
    open_source: OpenSource
    outputs: Outputs
    files: Files
    window: LineLimit
    key: BatchKey
    file_retention: float
    bodies: BodyBudget
    forecasts: BatchForecasts
    escalation: Escalation
    only: Container[int] | None = None


class Running(NamedTuple):
    """A line that is a job. `size`: its bytes; `escalated`: it was started in the tier default."""

    model: str
    size: int
    escalated: bool


class BatchLifecycle:
    """`_open`: the lines that were started and whose answers are not written yet."""

    def __init__(self, context: LifecycleContext) -> None:
        self._context = context
        self._progress_writer = context.progress_writer
        self._jobs = context.jobs
        self._scheduler = LineScheduler(context.progress_writer.batch, context.open_source, self._model_of)
        self._open: dict[int, OpenLine] = {}
        self._running: dict[asyncio.Task[Answer], Running] = {}
        self._of_model: Counter[str] = Counter()
        self._in_default: Counter[str] = Counter()
        self._answers: list[Answer] = []
        self._size = 0
        self._wake = asyncio.Event()
        self._jobs_ended = False
        self._refusal: Problem | None = None
        self._written_at = self._polled_at = time.monotonic()

    async def run(self) -> None:
        """Returns when every line is written. Raises Overtaken, Unavailable, and NotFound if the input file is
        deleted.
        """
        await self._check_key()
        try:
            for line in self._progress_writer.batch.open:
                raw = await self._context.open_source(line.number, line.start).at(line)
                self._start(raw, self._model_of(raw) or "", may_exist=True)
            while self._running or not self._scheduler.ended:
                await self._stop_if_due()
                await self._start_lines()
                await self._wait_for_answers()
                if self._is_due():
                    await self._checkpoint()
            await self._checkpoint()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    # ── starting lines ──

    async def _start_lines(self) -> None:
        """Starts lines while there is room for them."""
        await self._context.window.count()
        batch = self._progress_writer.batch
        self._context.escalation.update(batch, self._context.forecasts.expected(batch.id).expected_at, time.time())
        self._scheduler.begin_pass()
        while (found := await self._scheduler.next(self._room)) is not None:
            model, raw = found
            if self._jobs.stop is not None:
                self._open[raw.number] = open_line(raw)
                self._add(self._jobs.not_run(raw))
            else:
                self._start(raw, model, may_exist=self._progress_writer.batch.generation > 1)

    def _room(self, model: str) -> int:
        """Returns how many more lines of the model may be started now: none while the body budget is used up."""
        if self._jobs.stop is not None:
            return CHECKPOINT_LINES - len(self._answers)
        if self._running and not self._context.bodies.has_room(self._progress_writer.batch.tenant):
            return 0
        limit = self._context.window.size(model) + self._most_in_default(model)
        return min(limit - self._of_model[model], MOST_OF_ALL - len(self._running))

    def _most_in_default(self, model: str) -> int:
        return self._context.escalation.lines(self._context.window.slots(model), self._context.forecasts.escalated)

    def _model_of(self, raw: RawLine) -> str | None:
        """Returns the line's model; None for a line that succeeded in the batch that this one retries."""
        batch, only = self._progress_writer.batch, self._context.only
        if only is None and batch.model is not None:
            return batch.model
        line = parse_line(raw.data, batch.endpoint)
        return line.model if only is None or hash(line.custom_id) in only else None

    def _start(self, raw: RawLine, model: str, *, may_exist: bool) -> None:
        self._open[raw.number] = open_line(raw)
        escalated = self._in_default[model] < self._most_in_default(model)
        tier = Tier.DEFAULT if escalated else Tier.FLEX
        answering = self._jobs.answer(raw, may_exist=may_exist, tier=tier)
        task = asyncio.create_task(answering, name=f"{self._progress_writer.batch.id} {raw.number}")
        size = raw.end - raw.start
        self._running[task] = Running(model, size, escalated)
        self._of_model[model] += 1
        self._in_default[model] += escalated
        self._context.bodies.add(self._progress_writer.batch.tenant, size)
        task.add_done_callback(self._answered)

    # ── writing answers ──

    def _answered(self, task: asyncio.Task[Answer]) -> None:
        ended = self._running.pop(task)
        self._of_model[ended.model] -= 1
        self._in_default[ended.model] -= ended.escalated
        self._context.bodies.add(self._progress_writer.batch.tenant, -ended.size)
        if not task.cancelled():
            self._add(task.result())

    def _add(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._size += len(answer.data)
        self._wake.set()

    async def _wait_for_answers(self) -> None:
        """Waits for an answer, at most CHECKPOINT_EVERY seconds. Returns at once if the scheduler has more to read."""
        if self._scheduler.paused:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(CHECKPOINT_EVERY):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _is_due(self) -> bool:
        if not self._answers:
            return False
        much = self._size >= CHECKPOINT_SIZE or len(self._answers) >= CHECKPOINT_LINES
        return much or time.monotonic() - self._written_at >= CHECKPOINT_EVERY

    async def _checkpoint(self) -> None:
        """Writes the answers since the last checkpoint: first segments, then the document that names them."""
        answers, self._answers, self._size = self._answers, [], 0
        if answers:
            good = await self._segment(
                self._progress_writer.batch.output, "output", [each.data for each in answers if each.ok]
            )
            bad = await self._segment(
                self._progress_writer.batch.error, "errors", [each.data for each in answers if not each.ok]
            )
            self._context.escalation.pace.add(sum(each.tokens for each in answers))
            for each in answers:
                del self._open[each.line.number]
            still_open = tuple(self._open.values())
            with_progress = self._scheduler.with_progress
            await self._progress_writer.commit(
                lambda batch: self._forecast(
                    with_progress(advanced(answers, good, bad, still_open=still_open, batch=batch))
                )
            )
            await self._merge()
        self._written_at = self._polled_at = time.monotonic()

    def _forecast(self, batch: Batch) -> Batch:
        """Returns the batch with its last forecast and its tier."""
        found = self._context.forecasts.expected(batch.id)
        return batch.with_(
            expected_finish_at=found.shown_at,
            expected_finish_confidence=found.confidence,
            tier_in_use="default" if self._context.escalation.level else "flex",
        )

    async def _segment(self, output: Output, kind: str, lines: Sequence[bytes]) -> Segment | None:
        if not lines:
            return None
        segment = await self._context.outputs.write(output, lines)
        tenant = self._progress_writer.batch.tenant
        if not output.segments:
            entry = entry_of(
                self._progress_writer.batch, output, kind=kind, now=time.time(), retention=self._context.file_retention
            )
            await self._context.files.add(tenant, entry)
        try:
            await self._context.files.count_more(tenant, output.file_id, segment.size, new=not output.segments)
        except StorageQuotaExceeded as full:
            self._refusal = self._refusal or Problem(code=full.code, message=full.message)
        return segment

    async def _merge(self) -> None:
        """Merges segments. No other process changes them: only the batch's runner writes segments."""
        before, outputs = self._progress_writer.batch, self._context.outputs
        output, error = await outputs.merged(before.output), await outputs.merged(before.error)
        if (output, error) != (before.output, before.error):
            await self._progress_writer.commit(lambda batch: batch.with_(output=output, error=error))
            await outputs.delete_merged(before.output, output)
            await outputs.delete_merged(before.error, error)

    # ── stopping early ──

    async def _stop_if_due(self) -> None:
        """Checks whether the batch must end early, and ends its open jobs if so."""
        await self._poll()
        if (refusal := self._refusal) is not None and self._jobs.stop is None:
            await self._progress_writer.commit(lambda batch: refused(batch, refusal))
        self._jobs.stop = self._jobs.stop or stop_reason(self._progress_writer.batch)
        if self._jobs.stop is not None and not self._jobs_ended:
            log.info("batch.stopping", batch=self._progress_writer.batch.id, reason=self._jobs.stop)
            self._jobs_ended = True
            await self._jobs.end_jobs(self._open.values())

    async def _poll(self) -> None:
        if time.monotonic() - self._polled_at < POLL_INTERVAL:
            return
        self._polled_at = time.monotonic()
        try:
            await self._progress_writer.refresh()
            await self._check_key()
        except BackendUnavailable as error:
            log.warning("batch.not_read", batch=self._progress_writer.batch.id, error=str(error), next="reading again")

    async def _check_key(self) -> None:
        await self._context.key.refresh()
        if self._context.key.revoked:
            message = "The API key that created this batch was revoked."
            self._refusal = self._refusal or Problem(code="key_revoked", message=message)


def stop_reason(batch: Batch) -> str | None:
    if batch.cancelling_at is not None:
        return batch.problems[0].code if batch.problems else "batch_cancelled"
    return "batch_expired" if time.time() >= batch.expires_at else None


def refused(batch: Batch, problem: Problem) -> Batch:
    """Returns the batch as cancelling because of `problem`."""
    if batch.status != "in_progress":
        return batch
    return batch.with_(status="cancelling", cancelling_at=time.time(), problems=(problem,))


def advanced(
    answers: Sequence[Answer],
    good: Segment | None,
    bad: Segment | None,
    still_open: tuple[OpenLine, ...],
    batch: Batch,
) -> Batch:
    """Returns the batch with these answers, stored in the segments `good` and `bad`."""
    completed = sum(each.ok for each in answers)
    usage = batch.usage
    for each in answers:
        usage = usage.plus(each.usage)
    return batch.with_(
        output=extended(batch.output, good),
        error=extended(batch.error, bad),
        completed=batch.completed + completed,
        failed=batch.failed + len(answers) - completed,
        not_run=batch.not_run + sum(each.not_run for each in answers),
        usage=usage,
        tokens_done=batch.tokens_done + sum(each.tokens for each in answers),
        open=still_open,
    )


def extended(output: Output, segment: Segment | None) -> Output:
    return output if segment is None else output.model_copy(update={"segments": (*output.segments, segment)})
