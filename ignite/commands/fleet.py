"""`ignite queues` and `ignite workers`: print the state of queues and workers, once or every few seconds."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from ignite.commands.api_client import Api, api_options, run
from ignite.commands.jobs import moment

EVERY = 2.0
"""Seconds between two refreshes."""

MEASURE = 1.2
"""Seconds to wait for a server that has not yet measured the drain rate of its queues."""

NEXT = "Start a worker with 'ignite worker --engine ENGINE --model MODEL', or run 'ignite up'."

CLEAR, HIDE_CURSOR, SHOW_CURSOR = "\x1b[H\x1b[J", "\x1b[?25l", "\x1b[?25h"

Rows = list[dict[str, Any]]
Table = Callable[[Rows], Sequence[str]]
Command = TypeVar("Command", bound=Callable[..., Any])


def fleet_options(command: Command) -> Command:
    """Adds the options --watch, --json, --url and --key."""
    watch = click.option("--watch", is_flag=True, help=f"refresh every {EVERY:g} s until Ctrl-C")
    as_json = click.option("--json", "as_json", is_flag=True, help="print one JSON object per line")
    return api_options(watch(as_json(command)))


@click.command()
@fleet_options
def queues(url: str, key: str | None, watch: bool, as_json: bool) -> None:
    """Show waiting and running jobs by model and tier."""

    async def read() -> Rows:
        api = Api(url, key)
        found: Rows = (await api.json("GET", "/v1/queues"))["data"]
        if not watch and any(row["waiting"] and row["backlog_seconds"] is None for row in found):
            await asyncio.sleep(MEASURE)
            found = (await api.json("GET", "/v1/queues"))["data"]
        return found

    run(show(read, queue_table, watch=watch, as_json=as_json))


@click.command()
@fleet_options
def workers(url: str, key: str | None, watch: bool, as_json: bool) -> None:
    """Show the workers and their slots."""

    async def read() -> Rows:
        return (await Api(url, key).json("GET", "/v1/workers"))["data"]

    run(show(read, worker_table, watch=watch, as_json=as_json))


async def show(read: Callable[[], Any], table: Table, *, watch: bool, as_json: bool) -> None:
    """Prints the table; a watch on a terminal redraws it in place."""
    on_terminal = watch and not as_json and sys.stdout.isatty()
    if on_terminal:
        click.echo(HIDE_CURSOR, nl=False)
    try:
        while True:
            rows = await read()
            lines = [json.dumps(row) for row in rows] if as_json else table(rows)
            click.echo(screen(lines) if on_terminal else "\n".join(lines), nl=not on_terminal)
            if not rows and not watch:
                click.echo(f"None yet. {NEXT}", err=True)
            if not watch:
                return
            await asyncio.sleep(EVERY)
    finally:
        if on_terminal:
            click.echo(f"\n{SHOW_CURSOR}", nl=False)


def screen(lines: Sequence[str]) -> str:
    """Returns the lines that fit the terminal, after the codes that clear it."""
    width, height = shutil.get_terminal_size()
    shown = [*lines[: height - 2], f"{time.strftime('%H:%M:%S')} · refreshed every {EVERY:g} s · Ctrl-C stops"]
    return CLEAR + "\n".join(line[:width] for line in shown)


def queue_table(rows: Rows) -> Sequence[str]:
    heading = f"{'MODEL':<24}  {'TIER':<8}  {'WAITING':>8}  {'RUNNING':>8}  {'OLDEST':>8}  {'PER SECOND':>10}  BACKLOG"
    return [heading, *(queue_row(row) for row in rows)]


def queue_row(row: dict[str, Any]) -> str:
    rate = "" if row["started_per_second"] is None else f"{row['started_per_second']:.1f}"
    return (
        f"{row['model']:<24}  {row['tier']:<8}  {row['waiting']:>8}  {row['running']:>8}  "
        f"{span(row['oldest_wait_seconds'] or None):>8}  {rate:>10}  {span(row['backlog_seconds'])}"
    ).rstrip()


def worker_table(rows: Rows) -> Sequence[str]:
    heading = f"{'ID':<19}  {'MODEL':<24}  {'ENGINE':<10}  {'RUNNING':>9}  {'READY':<5}"
    heading += f"  {'IN THE ENGINE':<20}  {'VERSION':<8}  SINCE"
    return [heading, *(worker_row(row) for row in rows)]


def worker_row(row: dict[str, Any]) -> str:
    load, ready = f"{row['running']}/{row['slots']}", "yes" if row["ready"] else "no"
    return (
        f"{row['id']:<19}  {models_of(row):<24}  {row['engine']:<10}  {load:>9}  {ready:<5}  {state_of(row):<20}  "
        f"{row['version']:<8}  {moment(row['started_at'])}"
    )


def state_of(row: dict[str, Any]) -> str:
    """`12+3 kv 41% restarts 1`: what runs and waits there, how full its cache is, and how often it was restarted."""
    state: dict[str, Any] = row["engine_state"] or {}
    told = [f"{state['running']}+{state['waiting'] or 0}"] if state.get("running") is not None else []
    if (usage := state.get("kv_cache_usage")) is not None:
        told.append(f"kv {usage:.0%}")
    if restarts := state.get("restarts"):
        told.append(f"restarts {restarts}")
    return " ".join(told)


def models_of(row: dict[str, Any]) -> str:
    """The main model, and how many more there are; --json names them."""
    further = len(row["models"]) - 1
    return f"{row['model']} +{further}" if further > 0 else row["model"]


def span(seconds: float | None) -> str:
    """Formats seconds as `12s`, `3m` or `2h`, rounded."""
    if seconds is None:
        return ""
    for size, unit in ((3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
