"""Executes a batch: starts lines as jobs, per model as many as its workers can use (line_scheduler.py, line_limits.py);
writes the answers, in any order, to segments and the batch's document, a checkpoint at a time.

Exactly one line of output for each line of input, whatever process dies, for four reasons.

- *The document is the truth.* It names the segments that the outputs consist of, the counts, how far the input was
  fed, and which of the lines fed before that are still open. All of it changes in one write, under the version that was
  read.
- *A segment is an object of its own*, under a key with the runner's generation in it. What no document names is
  nothing: the reaper removes it.
- *A line's job has an id that follows from batch and line.* To feed a line twice makes one job, not two.
- *A runner that was overtaken cannot write*: its successor has raised the generation, and the version with it.

So, where the runner dies, or is stopped and wakes when another runs the batch:

    before a line's job is made             the line is not started, or open: it is started again
    made, and not in its queue              its successor finds it queued, and publishes it once more
    in its queue, no checkpoint since       its successor feeds the line again, and finds the job there
    the job is over, the answer not taken   its successor finds it over, and takes the answer from its record
    the record has expired, or was lost     the job is made and run again; no answer of it was written down
    answers taken, no segment written       as above: they are still open
    segment written, no checkpoint          no document names the segment; the lines are open, and written again
    checkpoint written, answer lost         the progress_writer writes the same again, and finds that it is there
    merged, no checkpoint                   the small segments stay; no document names the merged one
    merged, small ones not removed          no document names them; the reaper removes them
    finalizing                              every step of it can be taken again (run.py)
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

import structlog

from producer.batches.document import Batch, OpenLine, Output, Problem, Segment
from producer.batches.execution.line_jobs import Answer, LineJobs, place
from producer.batches.execution.line_limits import MOST_OF_ALL, LineLimit
from producer.batches.execution.line_scheduler import LineScheduler, OpenSource
from producer.batches.execution.outputs import Outputs, entry_of
from producer.batches.execution.progress_writer import ProgressWriter
from producer.batches.input.lines import RawLine, parse_line
from producer.batches.key import BatchKey
from producer.files.catalog import Files
from producer.http.edge.body_budget import BodyBudget
from shared.errors import BackendUnavailable, StorageQuotaExceeded

log = structlog.get_logger(__name__)

CHECKPOINT_EVERY = 0.5
"""Seconds at least from one checkpoint to the next, unless much has come in."""

CHECKPOINT_SIZE = 1024 * 1024
CHECKPOINT_LINES = 2000
LOOK_EVERY = 1.0
"""Seconds from one look at what clients want of the batch to the next."""


@dataclass(frozen=True, slots=True)
class LifecycleContext:
    """What an execution works with. `file_retention` in seconds; `only`: hashes of the custom_ids that are run, where
    not all are.
    """

    progress_writer: ProgressWriter
    jobs: LineJobs
    open_source: OpenSource
    outputs: Outputs
    files: Files
    window: LineLimit
    key: BatchKey
    file_retention: float
    bodies: BodyBudget
    only: Container[int] | None = None


class BatchLifecycle:
    """`open`: the lines that were fed and are not written down yet."""

    def __init__(self, tools: LifecycleContext) -> None:
        self._tools = tools
        self._progress_writer = tools.progress_writer
        self._jobs = tools.jobs
        self._feed = LineScheduler(tools.progress_writer.batch, tools.open_source, self._model_of)
        self._open: dict[int, OpenLine] = {}
        self._running: dict[asyncio.Task[Answer], tuple[str, int]] = {}
        self._of_model: Counter[str] = Counter()
        self._answers: list[Answer] = []
        self._size = 0
        self._wake = asyncio.Event()
        self._called_off = False
        self._refusal: Problem | None = None
        self._written_at = self._looked_at = time.monotonic()

    async def run(self) -> None:
        """Return when every line is written down. Raises Overtaken, Unavailable, NotFound when the input goes."""
        await self._look_at_key()
        try:
            for line in self._progress_writer.batch.open:
                raw = await self._tools.open_source(line.number, line.start).at(line)
                self._start(raw, self._model_of(raw) or "", fed_before=True)
            while self._running or not self._feed.ended:
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

    # ── lines out ──

    async def _start_lines(self) -> None:
        """Start lines while there is room for them."""
        await self._tools.window.count()
        self._feed.begin()
        while (found := await self._feed.next(self._room)) is not None:
            model, raw = found
            if self._jobs.stop is not None:
                self._open[raw.number] = place(raw)
                self._take(self._jobs.not_run(raw))
            else:
                self._start(raw, model, fed_before=self._progress_writer.batch.generation > 1)

    def _room(self, model: str) -> int:
        """How many more lines of the model may be started now: none while the process holds many bytes of requests."""
        if self._jobs.stop is not None:
            return CHECKPOINT_LINES - len(self._answers)
        if self._running and not self._tools.bodies.has_room(self._progress_writer.batch.tenant):
            return 0
        return min(self._tools.window.size(model) - self._of_model[model], MOST_OF_ALL - len(self._running))

    def _model_of(self, raw: RawLine) -> str | None:
        """What the line names as its model. None where it is none of this batch's: one that did well in the batch that
        this one retries.
        """
        batch, only = self._progress_writer.batch, self._tools.only
        if only is None and batch.model is not None:
            return batch.model
        line = parse_line(raw.data, batch.endpoint)
        return line.model if only is None or hash(line.custom_id) in only else None

    def _start(self, raw: RawLine, model: str, *, fed_before: bool) -> None:
        self._open[raw.number] = place(raw)
        answering = self._jobs.answer(raw, fed_before=fed_before)
        task = asyncio.create_task(answering, name=f"{self._progress_writer.batch.id} {raw.number}")
        size = raw.end - raw.start
        self._running[task] = model, size
        self._of_model[model] += 1
        self._tools.bodies.add(self._progress_writer.batch.tenant, size)
        task.add_done_callback(self._answered)

    # ── answers in ──

    def _answered(self, task: asyncio.Task[Answer]) -> None:
        model, size = self._running.pop(task)
        self._of_model[model] -= 1
        self._tools.bodies.add(self._progress_writer.batch.tenant, -size)
        if not task.cancelled():
            self._take(task.result())

    def _take(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._size += len(answer.data)
        self._wake.set()

    async def _wait_for_answers(self) -> None:
        """Wait for an answer, though not for long."""
        if self._feed.paused:
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
        """Write down what has come in: segments first, then the document that names them."""
        answers, self._answers, self._size = self._answers, [], 0
        if answers:
            good = await self._segment(
                self._progress_writer.batch.output, "output", [each.data for each in answers if each.ok]
            )
            bad = await self._segment(
                self._progress_writer.batch.error, "errors", [each.data for each in answers if not each.ok]
            )
            for each in answers:
                del self._open[each.line.number]
            still_open = tuple(self._open.values())
            noted = self._feed.noted
            await self._progress_writer.commit(
                lambda batch: noted(advanced(answers, good, bad, still_open=still_open, batch=batch))
            )
            await self._merge()
        self._written_at = self._looked_at = time.monotonic()

    async def _segment(self, output: Output, kind: str, lines: Sequence[bytes]) -> Segment | None:
        if not lines:
            return None
        segment = await self._tools.outputs.write(output, lines)
        tenant = self._progress_writer.batch.tenant
        if not output.segments:
            entry = entry_of(
                self._progress_writer.batch, output, kind=kind, now=time.time(), retention=self._tools.file_retention
            )
            await self._tools.files.add(tenant, entry)
        try:
            await self._tools.files.count_more(tenant, output.file_id, segment.size, new=not output.segments)
        except StorageQuotaExceeded as full:
            self._refusal = self._refusal or Problem(code=full.code, message=full.message)
        return segment

    async def _merge(self) -> None:
        """Segments stay few. Only the runner changes them, so what was merged is still what is there."""
        before, outputs = self._progress_writer.batch, self._tools.outputs
        output, error = await outputs.merged(before.output), await outputs.merged(before.error)
        if (output, error) != (before.output, before.error):
            await self._progress_writer.commit(lambda batch: batch.with_(output=output, error=error))
            await outputs.forget(before.output, output)
            await outputs.forget(before.error, error)

    # ── the end before its time ──

    async def _stop_if_due(self) -> None:
        """See whether the batch is to end early, and call off what is open then."""
        await self._look()
        if (refusal := self._refusal) is not None and self._jobs.stop is None:
            await self._progress_writer.commit(lambda batch: refused(batch, refusal))
        self._jobs.stop = self._jobs.stop or stop_reason(self._progress_writer.batch)
        if self._jobs.stop is not None and not self._called_off:
            log.info("batch.stops", batch=self._progress_writer.batch.id, reason=self._jobs.stop)
            self._called_off = True
            await self._jobs.call_off(self._open.values())

    async def _look(self) -> None:
        if time.monotonic() - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = time.monotonic()
        try:
            await self._progress_writer.look()
            await self._look_at_key()
        except BackendUnavailable as error:
            log.warning("batch.not_looked_at", batch=self._progress_writer.batch.id, error=str(error))

    async def _look_at_key(self) -> None:
        await self._tools.key.look()
        if self._tools.key.revoked:
            message = "The API key that asked for this batch was revoked."
            self._refusal = self._refusal or Problem(code="key_revoked", message=message)


def stop_reason(batch: Batch) -> str | None:
    if batch.cancelling_at is not None:
        return batch.problems[0].code if batch.problems else "batch_cancelled"
    return "batch_expired" if time.time() >= batch.expires_at else None


def refused(batch: Batch, problem: Problem) -> Batch:
    """The batch once it is not to be run on, which its client has not asked for: it says why."""
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
    """The batch once these answers are written down."""
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
        open=still_open,
    )


def extended(output: Output, segment: Segment | None) -> Output:
    return output if segment is None else output.model_copy(update={"segments": (*output.segments, segment)})
