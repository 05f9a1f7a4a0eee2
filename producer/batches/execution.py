"""A batch in progress: lines go out in a window, answers come back in any order and are written down in the batch's
document, a checkpoint at a time.

Exactly one line of output for each line of input, whatever dies: that rests on four things.

- *The document is the truth.* It names the segments that the outputs consist of, the counts, how far the input was
  fed, and which of the lines fed before that are still open. All of it changes in one write, under the version that was
  read.
- *A segment is an object of its own*, under a key with the runner's generation in it. What no document names is
  nothing: the reaper removes it.
- *A line's job has an id that follows from batch and line.* To feed a line twice makes one job, not two.
- *A runner that was overtaken cannot write*: its successor has raised the generation, and the version with it.

So, where the runner dies, or is stopped and wakes when another runs the batch:

    before a line's job is made             the line lies behind `next_line`, or is open: it is fed again
    made, and not in its queue              its successor finds it queued, and publishes it once more
    in its queue, no checkpoint since       its successor feeds the line again, and finds the job there
    the job is over, the answer not taken   its successor finds it over, and takes the answer from its record
    the record has expired, or was lost     the job is made and run again; no answer of it was written down
    answers taken, no segment written       as above: they are still open
    segment written, no checkpoint          nobody names the segment; the lines are open, and written into another
    checkpoint written, answer lost         the ledger writes the same again, and finds that it is there
    merged, no checkpoint                   the small segments stand; nobody names the merged one
    merged, small ones not removed          nobody names them
    finalizing                              every step of it can be taken again (run.py)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from producer.batches.document import Batch, OpenLine, Output, Segment
from producer.batches.ledger import Ledger
from producer.batches.line_jobs import Answer, LineJobs, place
from producer.batches.lines import RawLine, parse_line
from producer.batches.outputs import Outputs, entry_of
from producer.batches.source import LineSource
from producer.batches.window import Window
from producer.files.catalog import Files
from shared.errors import BackendUnavailable

log = structlog.get_logger(__name__)

CHECKPOINT_EVERY = 0.5
"""Seconds at least from one checkpoint to the next, unless much has come in."""

CHECKPOINT_SIZE = 1024 * 1024
CHECKPOINT_LINES = 2000
LOOK_EVERY = 1.0
"""Seconds from one look at what clients want of the batch to the next."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What an execution works with. `file_retention` in seconds; `only`: hashes of the custom_ids that are run, where
    not all are.
    """

    ledger: Ledger
    jobs: LineJobs
    source: LineSource
    outputs: Outputs
    files: Files
    window: Window
    file_retention: float
    only: Container[int] | None = None


class Execution:
    """`open`: the lines that were fed and are not written down yet."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._ledger = tools.ledger
        self._jobs = tools.jobs
        batch = tools.ledger.batch
        self._fed = (batch.next_line, batch.next_start)
        self._open: dict[int, OpenLine] = {}
        self._running: set[asyncio.Task[Answer]] = set()
        self._answers: list[Answer] = []
        self._size = 0
        self._wake = asyncio.Event()
        self._exhausted = False
        self._written_at = self._looked_at = time.monotonic()

    async def run(self) -> None:
        """Return when every line is written down. Raises Overtaken, Unavailable, NotFound when the input goes."""
        try:
            for line in self._ledger.batch.open:
                self._start(await self._tools.source.at(line), fed_before=True)
            while not (self._exhausted and not self._running):
                await self._note_stop()
                await self._feed()
                await self._come_by()
                if self._is_due():
                    await self._checkpoint()
            await self._checkpoint()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    # ── lines out ──

    async def _feed(self) -> None:
        """Start lines while there is room for them."""
        room = await self._room()
        while room > 0 and not self._exhausted:
            raw = await self._tools.source.next()
            if raw is None:
                self._exhausted = True
                return
            self._fed = (raw.number + 1, raw.end)
            if self._passes_over(raw):
                continue
            room -= 1
            if self._jobs.stop is not None:
                self._open[raw.number] = place(raw)
                self._take(self._jobs.not_run(raw))
            else:
                self._start(raw, fed_before=self._ledger.batch.generation > 1)

    async def _room(self) -> int:
        if self._jobs.stop is not None:
            return CHECKPOINT_LINES - len(self._answers)
        return await self._tools.window.size() - len(self._running)

    def _passes_over(self, raw: RawLine) -> bool:
        """Whether the line is none of this batch's: one that did well in the batch that this one retries."""
        only = self._tools.only
        return only is not None and hash(parse_line(raw.data, self._ledger.batch.endpoint).custom_id) not in only

    def _start(self, raw: RawLine, *, fed_before: bool) -> None:
        self._open[raw.number] = place(raw)
        answering = self._jobs.answer(raw, fed_before=fed_before)
        task = asyncio.create_task(answering, name=f"{self._ledger.batch.id} {raw.number}")
        self._running.add(task)
        task.add_done_callback(self._answered)

    # ── answers in ──

    def _answered(self, task: asyncio.Task[Answer]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._take(task.result())

    def _take(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._size += len(answer.data)
        self._wake.set()

    async def _come_by(self) -> None:
        """Wait for an answer, though not for long."""
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
            good = await self._segment(self._ledger.batch.output, "output", [each.data for each in answers if each.ok])
            bad = await self._segment(
                self._ledger.batch.error, "errors", [each.data for each in answers if not each.ok]
            )
            for each in answers:
                del self._open[each.line.number]
            await self._ledger.commit(partial(advanced, answers, good, bad, self._fed, tuple(self._open.values())))
            await self._merge()
        self._written_at = self._looked_at = time.monotonic()

    async def _segment(self, output: Output, kind: str, lines: Sequence[bytes]) -> Segment | None:
        if not lines:
            return None
        segment = await self._tools.outputs.write(output, lines)
        if not output.segments:
            entry = entry_of(
                self._ledger.batch, output, kind=kind, now=time.time(), retention=self._tools.file_retention
            )
            await self._tools.files.add(self._ledger.batch.tenant, entry)
        return segment

    async def _merge(self) -> None:
        """Segments stay few. Only the runner changes them, so what was merged is still what is there."""
        before, outputs = self._ledger.batch, self._tools.outputs
        output, error = await outputs.merged(before.output), await outputs.merged(before.error)
        if (output, error) != (before.output, before.error):
            await self._ledger.commit(lambda batch: batch.with_(output=output, error=error))
            await outputs.forget(before.output, output)
            await outputs.forget(before.error, error)

    # ── the end before its time ──

    async def _note_stop(self) -> None:
        """See whether the batch is to end early, and call off what is open then."""
        await self._look()
        if self._jobs.stop is None and (reason := stop_reason(self._ledger.batch)) is not None:
            log.info("batch.stops", batch=self._ledger.batch.id, reason=reason)
            self._jobs.stop = reason
            await self._jobs.call_off(self._open.values())

    async def _look(self) -> None:
        if time.monotonic() - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = time.monotonic()
        try:
            await self._ledger.look()
        except BackendUnavailable as error:
            log.warning("batch.not_looked_at", batch=self._ledger.batch.id, error=error.message)


def stop_reason(batch: Batch) -> str | None:
    if batch.cancelling_at is not None:
        return "batch_cancelled"
    return "batch_expired" if time.time() >= batch.expires_at else None


def advanced(
    answers: Sequence[Answer],
    good: Segment | None,
    bad: Segment | None,
    fed: tuple[int, int],
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
        next_line=fed[0],
        next_start=fed[1],
        open=still_open,
    )


def extended(output: Output, segment: Segment | None) -> Output:
    return output if segment is None else output.model_copy(update={"segments": (*output.segments, segment)})
