"""`ignite batch run`: a file through the Batch API, from its check to the last answer on disk.

What has come so far is on disk, and its size says from which byte to go on; a note beside it names the batch
(`ignite/commands/batch_files.py`). So whatever ends this process, the same command goes on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import click

from ignite.commands.api_client import Api, Refused, Unreachable
from ignite.commands.batch_files import BatchFiles, Workspace, opened, part_of, unfinished
from ignite.commands.batch_progress import Progress, open_progress
from producer.batches.input.lines import LineReader
from producer.batches.input.validation import Duplicates, Validation, in_order
from producer.batches.requests import ENDPOINT
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


def run_to_its_end(api: Api, files: BatchFiles, window: str, *, again: bool) -> int:
    """The exit status."""
    note = unfinished(files, again=again)
    if note is None and not looks_good(files.source):
        return NOTHING_RUN
    with opened(files, note, window, replaces=again) as workspace:
        try:
            return asyncio.run(BatchClient(api, workspace).run())
        except KeyboardInterrupt:
            return broken_off(workspace)


def broken_off(workspace: Workspace) -> int:
    note = workspace.note
    if not (note.file or note.batch):
        workspace.forget()
    else:
        goes_on = f"{note.batch} goes on without us" if note.batch else "The batch may have begun"
        click.echo(f"\n{goes_on}; the same command fetches its answers.", err=True)
    return BROKEN_OFF


# ── the input ──


def looks_good(source: Path) -> bool:
    """Returns whether the input is valid; prints its problems if not."""
    problems = problems_of(source)
    for problem in problems[:TOLD]:
        where = f"{source}:{problem.line}" if problem.line else str(source)
        click.echo(f"{where}: {problem.message} [{problem.code}]", err=True)
    if len(problems) > TOLD:
        click.echo("… and more.", err=True)
    return not problems


def problems_of(source: Path) -> tuple[Any, ...]:
    """Returns the problems that the API would find, except those that depend on its models and its limit of lines."""
    validation = Validation(ENDPOINT, sys.maxsize)
    for_each_line(source, validation.add, lambda: validation.full)
    validation.end()
    duplicates = Duplicates(ENDPOINT, validation.doubtful)
    if validation.doubtful:
        for_each_line(source, duplicates.add, lambda: duplicates.full)
    return in_order(validation.problems + duplicates.problems)


def for_each_line(source: Path, check: Callable[[Any], object], enough: Callable[[], bool]) -> None:
    reader = LineReader(Settings.model_fields["body_limit"].default)
    with source.open("rb") as file:
        while (data := file.read(CHUNK)) and not enough():
            for line in reader.feed(data):
                check(line)
    for line in reader.end():
        check(line)


# ── the batch ──


class BatchClient:
    def __init__(self, api: Api, workspace: Workspace) -> None:
        self._api = api
        self._workspace = workspace
        self._files = workspace.files

    async def run(self) -> int:
        await self._begin()
        batch_id, output = self._workspace.note.batch, self._files.output
        click.echo(f"{batch_id}: answers come to {part_of(output)}, which becomes {output} at the end", err=True)
        with open_progress() as progress:
            batch = await self._follow(batch_id, progress)
        self._workspace.publish()
        return tell_the_end(batch, self._files)

    async def _begin(self) -> None:
        """Make the batch, or find the one that was made already. A request that may have reached the API is not
        forgotten: sent again under its idempotency key, it is the same batch.
        """
        workspace = self._workspace
        if workspace.note.batch:
            return
        try:
            if not workspace.note.file:
                workspace.keep(replace(workspace.note, file=await self._send()))
            workspace.keep(replace(workspace.note, batch=await self._make()))
        except (Refused, Unreachable) as error:
            if isinstance(error, Refused) or not workspace.note.file:
                workspace.forget()
            raise

    async def _send(self) -> str:
        """The id of the input."""
        click.echo(f"sending {self._files.source}", err=True)
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        with self._files.source.open("rb") as file:
            form.add_field("file", file, filename=f"{self._files.source.stem}.jsonl")
            return (await self._api.json("POST", "/v1/files", data=form))["id"]

    async def _make(self) -> str:
        """The id of the batch."""
        note = self._workspace.note
        asked = {"input_file_id": note.file, "endpoint": ENDPOINT, "completion_window": note.window}
        headers = {"idempotency-key": note.key}
        return (await self._api.json("POST", "/v1/batches", json=asked, headers=headers))["id"]

    async def _follow(self, batch_id: str, progress: Progress) -> dict[str, Any]:
        """The batch when it is over and all that came of it is on disk."""
        while True:
            batch = await retry_while_unreachable(progress, lambda: self._api.json("GET", f"/v1/batches/{batch_id}"))
            progress.show(batch)
            await retry_while_unreachable(progress, partial(self._fetch, batch["output_file_id"], self._files.output))
            await retry_while_unreachable(progress, partial(self._fetch, batch["error_file_id"], self._files.errors))
            if batch["status"] in OVER:
                return batch
            await asyncio.sleep(POLL)

    async def _fetch(self, file_id: str | None, path: Path) -> None:
        """Add to `path` what the file has more of, where there is one."""
        if file_id is None:
            return
        file = await self._api.json("GET", f"/v1/files/{file_id}")
        have = self._workspace.size_of(path)
        if have >= file["bytes"]:
            return
        headers = {"range": f"bytes={have}-"}
        async with self._api.open("GET", f"/v1/files/{file_id}/content", headers=headers) as response:
            async for data in response.content.iter_chunked(CHUNK):
                self._workspace.add(path, data)


async def retry_while_unreachable(progress: Progress, step: Callable[[], Awaitable[T]]) -> T:
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
