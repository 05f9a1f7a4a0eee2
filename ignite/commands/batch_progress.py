"""Prints a batch's progress to stderr: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_EVERY = 5.0
"""Seconds between two plain lines. A line is printed only after a change."""


class Progress(Protocol):
    def show(self, batch: dict[str, Any]) -> None: ...

    def say(self, sentence: str) -> None: ...


@contextmanager
def open_progress() -> Generator[Progress]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainLines()
        return
    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed · {task.fields[pace]} tokens/s"),
        TimeElapsedColumn(),
        TextColumn("·"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[expected]}"),
    )
    with Bar(*columns, console=console) as bar:
        yield BarOnTerminal(bar)


def expectation(batch: dict[str, Any]) -> str:
    """Returns when the server expects the batch's end, empty if it does not know."""
    if batch["status"] != "in_progress" or (at := batch.get("expected_finish_at")) is None:
        return ""
    late = ", after its window" if at > batch["expires_at"] else ""
    return f"expected {datetime.fromtimestamp(at):%m-%d %H:%M:%S}{late}"


class Pace:
    """Tokens per second over the last SPAN seconds."""

    SPAN = 10.0

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def after(self, tokens: int) -> int:
        now = time.monotonic()
        self._seen = [(at, count) for at, count in self._seen if now - at <= self.SPAN] + [(now, tokens)]
        since, before = self._seen[0]
        return round((tokens - before) / (now - since)) if now > since else 0


class BarOnTerminal:
    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._pace = Pace()
        self._task = bar.add_task("", total=None, failed=0, pace=0, expected="")

    def show(self, batch: dict[str, Any]) -> None:
        counts = batch["request_counts"]
        self._bar.update(
            self._task,
            description=batch["status"],
            total=counts["total"] or None,
            completed=counts["completed"] + counts["failed"],
            failed=counts["failed"],
            pace=f"{self._pace.after(batch['usage']['output_tokens']):,}",
            expected=expectation(batch),
        )

    def say(self, sentence: str) -> None:
        self._bar.console.print(sentence, highlight=False, markup=False)


class PlainLines:
    def __init__(self) -> None:
        self._pace = Pace()
        self._last: tuple[Any, ...] = ()
        self._printed_at = float("-inf")

    def show(self, batch: dict[str, Any]) -> None:
        counts, status = batch["request_counts"], batch["status"]
        pace = self._pace.after(batch["usage"]["output_tokens"])
        now = (status, counts["completed"], counts["failed"])
        early = time.monotonic() - self._printed_at < LINE_EVERY and self._last[:1] == now[:1]
        if now == self._last or early:
            return
        self._last, self._printed_at = now, time.monotonic()
        done = counts["completed"] + counts["failed"]
        line = f"{status}: {done} of {counts['total']} lines, {counts['failed']} failed, {pace:,} tokens/s"
        self.say(", ".join(filter(None, (line, expectation(batch)))))

    def say(self, sentence: str) -> None:
        click.echo(sentence, err=True)
