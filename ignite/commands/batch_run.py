"""`ignite batch run`: checks a file, runs it through the Batch API, and downloads the answers.

The size of the unfinished output is the offset from which the download continues; a state file names the batch
(`ignite/commands/batch_files.py`). So the same command resumes the run after any interruption.
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
import orjson

from ignite.commands.api_client import Api, Refused, Unreachable
from ignite.commands.batch_files import BatchFiles, Workspace, opened, part_of, unfinished
from ignite.commands.batch_progress import Progress, open_progress
from producer.batches.input.lines import LineReader
from producer.batches.input.validation import Duplicates, Validation, in_order
from producer.batches.requests import ENDPOINTS
from shared.settings import Settings

T = TypeVar("T")

POLL = 1.0
LONGEST_PAUSE = 30.0
CHUNK = 1024 * 1024
SHOWN_PROBLEMS = 20
"""Problems of a file that are printed."""

OVER = ("completed", "failed", "expired", "cancelled")
ALL_ANSWERED, SOME_FAILED, NOTHING_RUN, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""


def run_batch_file(api: Api, files: BatchFiles, window: str, *, again: bool) -> int:
    """Runs or resumes a batch, and returns the command's exit status."""
    state = unfinished(files, again=again)
    if state is None and not is_valid(files.source):
        return NOTHING_RUN
    with opened(files, state, window, replaces=again) as workspace:
        try:
            return asyncio.run(BatchClient(api, workspace).run())
        except KeyboardInterrupt:
            return interrupted(workspace)


def interrupted(workspace: Workspace) -> int:
    state = workspace.state
    if not (state.file or state.batch):
        workspace.discard()
    else:
        sentence = f"{state.batch} runs on" if state.batch else "The batch may have begun"
        click.echo(f"\n{sentence}; the same command fetches its answers.", err=True)
    return INTERRUPTED


# ── the input ──


def is_valid(source: Path) -> bool:
    """Returns whether the input is valid; prints its problems if not."""
    problems = problems_of(source)
    for problem in problems[:SHOWN_PROBLEMS]:
        where = f"{source}:{problem.line}" if problem.line else str(source)
        click.echo(f"{where}: {problem.message} [{problem.code}]", err=True)
    if len(problems) > SHOWN_PROBLEMS:
        click.echo("… and more.", err=True)
    return not problems


def problems_of(source: Path) -> tuple[Any, ...]:
    """Returns the problems that the API would find, except those that depend on its models and its limit of lines."""
    endpoint = endpoint_of(source)
    validation = Validation(endpoint, sys.maxsize)
    for_each_line(source, validation.add, lambda: validation.full)
    validation.end()
    duplicates = Duplicates(endpoint, validation.doubtful)
    if validation.doubtful:
        for_each_line(source, duplicates.add, lambda: duplicates.full)
    return in_order(validation.problems + duplicates.problems)


def endpoint_of(source: Path) -> str:
    """The endpoint of the whole file: its first line's, where that is one of ours."""
    with source.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        url = orjson.loads(first)["url"]
    except (ValueError, LookupError, TypeError):
        url = None
    return url if url in ENDPOINTS else ENDPOINTS[0]


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
        batch_id, output = self._workspace.state.batch, self._files.output
        click.echo(f"{batch_id}: answers are written to {part_of(output)}, which becomes {output} at the end", err=True)
        with open_progress() as progress:
            batch = await self._follow(batch_id, progress)
        self._workspace.publish()
        return report_end(batch, self._files)

    async def _begin(self) -> None:
        """Creates the batch unless it exists. If the request may have reached the API, the state is kept: the next run
        sends the request again with the same idempotency key and gets the same batch.
        """
        workspace = self._workspace
        if workspace.state.batch:
            return
        try:
            if not workspace.state.file:
                workspace.save(replace(workspace.state, file=await self._upload()))
            workspace.save(replace(workspace.state, batch=await self._create()))
        except (Refused, Unreachable) as error:
            if isinstance(error, Refused) or not workspace.state.file:
                workspace.discard()
            raise

    async def _upload(self) -> str:
        """Uploads the input, and returns its file id."""
        click.echo(f"uploading {self._files.source}", err=True)
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        with self._files.source.open("rb") as file:
            form.add_field("file", file, filename=f"{self._files.source.stem}.jsonl")
            return (await self._api.json("POST", "/v1/files", data=form))["id"]

    async def _create(self) -> str:
        """Creates the batch, and returns its id."""
        state = self._workspace.state
        endpoint = endpoint_of(self._files.source)
        body = {"input_file_id": state.file, "endpoint": endpoint, "completion_window": state.window}
        headers = {"idempotency-key": state.key}
        return (await self._api.json("POST", "/v1/batches", json=body, headers=headers))["id"]

    async def _follow(self, batch_id: str, progress: Progress) -> dict[str, Any]:
        """Downloads answers until the batch is over, and returns the batch."""
        while True:
            batch = await retry_while_unreachable(progress, lambda: self._api.json("GET", f"/v1/batches/{batch_id}"))
            progress.show(batch)
            await retry_while_unreachable(progress, partial(self._fetch, batch["output_file_id"], self._files.output))
            await retry_while_unreachable(progress, partial(self._fetch, batch["error_file_id"], self._files.errors))
            if batch["status"] in OVER:
                return batch
            await asyncio.sleep(POLL)

    async def _fetch(self, file_id: str | None, path: Path) -> None:
        """Downloads the rest of a file of answers to `path`. `file_id` is None while there are no answers."""
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
    """Repeats `step` until the API answers, and returns its result."""
    pause = 0.5
    while True:
        try:
            return await step()
        except Unreachable as error:
            progress.say(f"{error.message} Trying again in {pause:.0f} s." if pause >= 1 else error.message)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


def report_end(batch: dict[str, Any], files: BatchFiles) -> int:
    """Prints the batch's result, and returns the exit status."""
    problems: list[dict[str, Any]] = batch["errors"]["data"] if batch["errors"] else []
    for problem in problems[:SHOWN_PROBLEMS]:
        where = f"{files.source}:{problem['line']}" if problem["line"] else str(files.source)
        click.echo(f"{where}: {problem['message']} [{problem['code']}]", err=True)
    counts = batch["request_counts"]
    failed = f", {counts['failed']} failed: {files.errors}" if counts["failed"] else ""
    click.echo(f"{batch['status']}: {counts['completed']} of {counts['total']} lines answered{failed}", err=True)
    if batch["status"] == "failed":
        return NOTHING_RUN if not counts["completed"] else SOME_FAILED
    return ALL_ANSWERED if batch["status"] == "completed" and not counts["failed"] else SOME_FAILED
