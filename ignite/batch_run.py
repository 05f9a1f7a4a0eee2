"""`ignite batch run`: a file through the Batch API, from its check to the last answer on disk.

What has come so far is in the output file itself: its size says from which byte to go on. Beside it, until the end,
lies a note of which batch it belongs to. So whatever ends this process, the same command goes on.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import click

from ignite.api_client import Api, Unreachable
from ignite.batch_progress import Progress, open_progress
from producer.batches.lines import LineReader
from producer.batches.requests import ENDPOINT
from producer.batches.validation import Duplicates, Validation, in_order
from shared.settings import Settings

T = TypeVar("T")

POLL = 1.0
LONGEST_PAUSE = 30.0
CHUNK = 1024 * 1024
TOLD = 20
"""Problems of a file that are told."""

OVER = ("completed", "failed", "expired", "cancelled")
WELL, SOME_FAILED, NOTHING_RUN, BROKEN_OFF = 0, 1, 2, 130
"""Exit statuses."""


@dataclass(frozen=True, slots=True)
class BatchFiles:
    source: Path
    output: Path
    errors: Path

    @property
    def note(self) -> Path:
        return self.output.with_name(f"{self.output.name}.batch")


@dataclass(frozen=True, slots=True)
class Note:
    """Which batch an unfinished output belongs to, and the input it was made of."""

    batch: str
    size: int
    modified: float

    @classmethod
    def read(cls, path: Path) -> Note | None:
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise click.ClickException(f"{path} is no note of an unfinished batch: begin with --again.") from None

    @classmethod
    def of(cls, batch_id: str, source: Path) -> Note:
        found = source.stat()
        return cls(batch_id, found.st_size, found.st_mtime)


def run_to_its_end(api: Api, files: BatchFiles, window: str, *, again: bool) -> int:
    """The exit status."""
    if again:
        for path in (files.note, files.output, files.errors):
            path.unlink(missing_ok=True)
    note = Note.read(files.note)
    if note is None and not looks_good(files):
        return NOTHING_RUN
    if note is not None and note != Note.of(note.batch, files.source):
        raise click.ClickException(f"{files.source} has changed since {note.batch} began: begin with --again.")
    try:
        return asyncio.run(BatchClient(api, files).run(note, window))
    except KeyboardInterrupt:
        begun = Note.read(files.note)
        if begun is not None:
            click.echo(f"\n{begun.batch} goes on without us; the same command fetches its answers.", err=True)
        return BROKEN_OFF


# ── the input ──


def looks_good(files: BatchFiles) -> bool:
    """Whether the input is worth sending, and nothing stands in the way of the output; says so where not."""
    for path in (files.output, files.errors):
        if path.exists():
            raise click.ClickException(f"{path} is there already: choose another name, or replace it with --again.")
    problems = problems_of(files.source)
    for problem in problems[:TOLD]:
        where = f"{files.source}:{problem.line}" if problem.line else str(files.source)
        click.echo(f"{where}: {problem.message} [{problem.code}]", err=True)
    if len(problems) > TOLD:
        click.echo("… and more.", err=True)
    return not problems


def problems_of(source: Path) -> tuple[Any, ...]:
    """What the API would find wrong with the file, but for what only it knows: its models and its limit of lines."""
    validation = Validation(ENDPOINT, sys.maxsize)
    each_line(source, validation.look, lambda: validation.full)
    validation.end()
    duplicates = Duplicates(ENDPOINT, validation.doubtful)
    if validation.doubtful:
        each_line(source, duplicates.look, lambda: duplicates.full)
    return in_order(validation.problems + duplicates.problems)


def each_line(source: Path, look: Callable[[Any], object], enough: Callable[[], bool]) -> None:
    reader = LineReader(Settings.model_fields["body_limit"].default)
    with source.open("rb") as file:
        while (data := file.read(CHUNK)) and not enough():
            for line in reader.feed(data):
                look(line)
    for line in reader.end():
        look(line)


# ── the batch ──


class BatchClient:
    def __init__(self, api: Api, files: BatchFiles) -> None:
        self._api = api
        self._files = files

    async def run(self, note: Note | None, window: str) -> int:
        if note is None:
            click.echo(f"sending {self._files.source}", err=True)
            note = await self._begin(window)
        click.echo(f"{note.batch}: answers go to {self._files.output}", err=True)
        with open_progress() as progress:
            batch = await self._follow(note.batch, progress)
        self._files.note.unlink(missing_ok=True)
        return tell_the_end(batch, self._files)

    async def _begin(self, window: str) -> Note:
        """A request that may be sent twice would make two batches: so this is not tried again by itself."""
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        with self._files.source.open("rb") as file:
            form.add_field("file", file, filename=f"{self._files.source.stem}.jsonl")
            sent = await self._api.json("POST", "/v1/files", data=form)
        asked = {"input_file_id": sent["id"], "endpoint": ENDPOINT, "completion_window": window}
        note = Note.of((await self._api.json("POST", "/v1/batches", json=asked))["id"], self._files.source)
        self._files.note.write_text(json.dumps(asdict(note)))
        return note

    async def _follow(self, batch_id: str, progress: Progress) -> dict[str, Any]:
        """The batch when it is over and all that came of it is on disk."""
        while True:
            batch = await insist(progress, lambda: self._api.json("GET", f"/v1/batches/{batch_id}"))
            progress.show(batch)
            await insist(progress, partial(self._fetch, batch["output_file_id"], self._files.output))
            await insist(progress, partial(self._fetch, batch["error_file_id"], self._files.errors))
            if batch["status"] in OVER:
                return batch
            await asyncio.sleep(POLL)

    async def _fetch(self, file_id: str | None, path: Path) -> None:
        """Add to `path` what the file has more of, where there is one."""
        if file_id is None:
            return
        file = await self._api.json("GET", f"/v1/files/{file_id}")
        have = size_of(path)
        if have >= file["bytes"]:
            return
        headers = {"range": f"bytes={have}-"}
        async with self._api.open("GET", f"/v1/files/{file_id}/content", headers=headers) as response:
            with path.open("ab") as output:
                async for data in response.content.iter_chunked(CHUNK):
                    output.write(data)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def insist(progress: Progress, step: Callable[[], Awaitable[T]]) -> T:
    """Until the API answers."""
    pause = 0.5
    while True:
        try:
            return await step()
        except Unreachable as error:
            progress.say(f"{error.message} Trying again in {pause:.0f} s." if pause >= 1 else error.message)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


def tell_the_end(batch: dict[str, Any], files: BatchFiles) -> int:
    """Say how it ended; the exit status."""
    problems: list[dict[str, Any]] = batch["errors"]["data"] if batch["errors"] else []
    for problem in problems[:TOLD]:
        where = f"{files.source}:{problem['line']}" if problem["line"] else str(files.source)
        click.echo(f"{where}: {problem['message']} [{problem['code']}]", err=True)
    counts = batch["request_counts"]
    failed = f", {counts['failed']} failed: {files.errors}" if counts["failed"] else ""
    click.echo(f"{batch['status']}: {counts['completed']} of {counts['total']} lines answered{failed}", err=True)
    if batch["status"] == "failed":
        return NOTHING_RUN if not counts["completed"] else SOME_FAILED
    return WELL if batch["status"] == "completed" and not counts["failed"] else SOME_FAILED
