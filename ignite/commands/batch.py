"""`ignite batch`: run a file of requests, and look at batches, through the API."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from ignite.commands.api_client import Api, run, show, talks_to_the_api

HEADING = f"{'ID':<38}  {'STATUS':<11}  {'CREATED':<14}  {'LINES':>9}  {'DONE':>9}  {'FAILED':>7}"


@click.group()
@talks_to_the_api
@click.pass_context
def batch(context: click.Context, url: str, key: str | None) -> None:
    """Run a file of requests as a batch; look at batches, cancel them, run what failed again."""
    context.obj = Api(url, key)


@batch.command("run")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="where the answers go")
@click.option("--errors", type=click.Path(path_type=Path), help="where failed lines go [OUTPUT.errors]")
@click.option("--window", default="24h", show_default=True, help="how long it may take: 24h, 30m, …")
@click.option("--again", is_flag=True, help="begin anew: forget an unfinished run, replace its files at the end")
@click.pass_obj
def run_batch(api: Api, source: Path, output: Path, errors: Path | None, window: str, again: bool) -> None:
    """Run the requests in SOURCE (JSON lines) and write their answers as they come.

    Answers come in the order in which they are done, to OUTPUT.part, which becomes OUTPUT at the end. After Ctrl-C or a
    lost connection the same command goes on where it was; the batch itself does not stop. Ends with 0 if every line was
    answered, 1 if some failed, 2 if nothing was run.
    """
    from ignite.commands.batch_files import BatchFiles, behind_links, beside
    from ignite.commands.batch_run import run_to_its_end

    output = behind_links(output)
    files = BatchFiles(source, output, behind_links(errors or beside(output, "errors")))
    raise SystemExit(run_to_its_end(api, files, window, again=again))


@batch.command("ls")
@click.option("--limit", default=20, show_default=True, help="how many")
@click.pass_obj
def list_batches(api: Api, limit: int) -> None:
    """The latest batches, newest first."""

    async def work() -> None:
        found = await api.json("GET", "/v1/batches", params={"limit": str(limit)})
        click.echo(HEADING)
        for each in found["data"]:
            click.echo(row(each))

    run(work())


def row(batch: dict[str, Any]) -> str:
    counts, created = batch["request_counts"], datetime.fromtimestamp(batch["created_at"])
    return (
        f"{batch['id']}  {batch['status']:<11}  {created:%m-%d %H:%M:%S}  "
        f"{counts['total']:>9}  {counts['completed']:>9}  {counts['failed']:>7}"
    )


@batch.command("get")
@click.argument("batch_id")
@click.pass_obj
def get_batch(api: Api, batch_id: str) -> None:
    """One batch, whole, as JSON."""
    show(api, "GET", f"/v1/batches/{batch_id}")


@batch.command("cancel")
@click.argument("batch_id")
@click.pass_obj
def cancel_batch(api: Api, batch_id: str) -> None:
    """Cancel a batch; prints it as it then is. What is done is kept."""
    show(api, "POST", f"/v1/batches/{batch_id}/cancel")


@batch.command("retry")
@click.argument("batch_id")
@click.pass_obj
def retry_batch(api: Api, batch_id: str) -> None:
    """Run what failed in a batch again; prints the new batch."""
    show(api, "POST", f"/v1/batches/{batch_id}/retry")
