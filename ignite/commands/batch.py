"""`ignite batch`: runs a file of requests, and lists, prints, cancels and retries batches through the API."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from ignite.commands.api_client import Api, api_options, run, show

HEADING = f"{'ID':<38}  {'STATUS':<11}  {'CREATED':<14}  {'LINES':>9}  {'DONE':>9}  {'FAILED':>7}  {'EXPECTED':<14}"


OVER = ("completed", "failed", "expired", "cancelled")


@click.group()
@api_options
@click.pass_context
def batch(context: click.Context, url: str, key: str | None) -> None:
    """Run a file of requests as a batch, and manage batches."""
    context.obj = Api(url, key)


@batch.command("run")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="file for the answers")
@click.option("--errors", type=click.Path(path_type=Path), help="file for the failed lines [default: OUTPUT.errors]")
@click.option("--window", default="24h", show_default=True, help="time limit of the batch, with unit: 24h, 30m, …")
@click.option("--again", is_flag=True, help="start over: ignore an unfinished run and replace its files at the end")
@click.pass_obj
def run_batch(api: Api, source: Path, output: Path, errors: Path | None, window: str, again: bool) -> None:
    """Run the requests in SOURCE (JSON lines) and write their answers as they come.

    Answers are written in the order of completion to OUTPUT.part, which is renamed to OUTPUT at the end. After Ctrl-C
    or a lost connection the batch continues on the server; the same command resumes the download. Exit status: 0 if
    every line was answered, 1 if some failed, 2 if nothing was run.
    """
    from ignite.commands.batch_files import BatchFiles, resolve_link, with_suffix
    from ignite.commands.batch_run import run_batch_file

    output = resolve_link(output)
    files = BatchFiles(source, output, resolve_link(errors or with_suffix(output, "errors")))
    raise SystemExit(run_batch_file(api, files, window, again=again))


@batch.command("ls")
@click.option("--limit", default=20, show_default=True, help="number of batches to list")
@click.pass_obj
def list_batches(api: Api, limit: int) -> None:
    """List the latest batches, newest first."""

    async def work() -> None:
        found = await api.json("GET", "/v1/batches", params={"limit": str(limit)})
        click.echo(HEADING)
        for each in found["data"]:
            click.echo(row(each))
        if not found["data"]:
            click.echo("There are no batches. Start one with 'ignite batch run IN.jsonl -o OUT.jsonl'.", err=True)

    run(work())


def row(batch: dict[str, Any]) -> str:
    counts, created = batch["request_counts"], datetime.fromtimestamp(batch["created_at"])
    expected = moment(None if batch["status"] in OVER else batch.get("expected_finish_at"))
    return (
        f"{batch['id']}  {batch['status']:<11}  {created:%m-%d %H:%M:%S}  "
        f"{counts['total']:>9}  {counts['completed']:>9}  {counts['failed']:>7}  "
        f"{expected:<14}"
    ).rstrip()


def moment(at: float | None) -> str:
    """Returns the local time of Unix seconds."""
    return "-" if at is None else f"{datetime.fromtimestamp(at):%m-%d %H:%M:%S}"


@batch.command("get")
@click.argument("batch_id")
@click.pass_obj
def get_batch(api: Api, batch_id: str) -> None:
    """Print a batch as JSON."""
    show(api, "GET", f"/v1/batches/{batch_id}")


@batch.command("cancel")
@click.argument("batch_id")
@click.pass_obj
def cancel_batch(api: Api, batch_id: str) -> None:
    """Cancel a batch and print it as JSON. Finished lines keep their answers."""
    show(api, "POST", f"/v1/batches/{batch_id}/cancel")


@batch.command("retry")
@click.argument("batch_id")
@click.pass_obj
def retry_batch(api: Api, batch_id: str) -> None:
    """Run a batch's failed lines again as a new batch, and print it as JSON."""
    show(api, "POST", f"/v1/batches/{batch_id}/retry")
