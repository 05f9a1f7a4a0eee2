"""`ignite jobs`: lists, prints, follows, cancels and retries jobs through the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from ignite.commands.api_client import Api, api_options, run, show


@click.group()
@api_options
@click.pass_context
def jobs(context: click.Context, url: str, key: str | None) -> None:
    """List, print, follow, cancel and retry jobs."""
    context.obj = Api(url, key)


def moment(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds).strftime("%m-%d %H:%M:%S")


def row(job: dict[str, Any]) -> str:
    tokens = job["progress"]["completion_tokens"]
    return (
        f"{job['id']}  {job['status']:<11}  {moment(job['created_at'])}  {job['service_tier']:<8}  "
        f"{tokens:>7}  {job['attempts']:>8}  {job['model']}"
    )


HEADING = f"{'ID':<41}  {'STATUS':<11}  {'CREATED':<14}  {'TIER':<8}  {'TOKENS':>7}  {'ATTEMPTS':>8}  MODEL"


@jobs.command("ls")
@click.option("--status", help="only jobs with this status")
@click.option("--model", help="only jobs for this model")
@click.option("--limit", default=20, show_default=True, help="number of jobs to list")
@click.pass_obj
def list_jobs(api: Api, status: str | None, model: str | None, limit: int) -> None:
    """List the latest jobs, newest first."""

    async def work() -> None:
        wanted = {"status": status, "model": model, "limit": str(limit)}
        found = await api.json("GET", "/v1/jobs", params={key: value for key, value in wanted.items() if value})
        click.echo(HEADING)
        for job in found["data"]:
            click.echo(row(job))
        if not found["data"]:
            none = "No job matches --status and --model." if status or model else "No jobs yet. Send a call to the API."
            click.echo(none, err=True)

    run(work())


@jobs.command("get")
@click.argument("job_id")
@click.pass_obj
def get_job(api: Api, job_id: str) -> None:
    """Print a job as JSON."""
    show(api, "GET", f"/v1/jobs/{job_id}")


@jobs.command("cancel")
@click.argument("job_id")
@click.pass_obj
def cancel_job(api: Api, job_id: str) -> None:
    """Cancel a job and print it as JSON."""
    show(api, "POST", f"/v1/jobs/{job_id}/cancel")


@jobs.command("retry")
@click.argument("job_id")
@click.pass_obj
def retry_job(api: Api, job_id: str) -> None:
    """Run a failed job again under the same id, and print it as JSON."""
    show(api, "POST", f"/v1/jobs/{job_id}/retry")


@jobs.command("tail")
@click.argument("job_id")
@click.option("--raw", is_flag=True, help="print the event stream instead of the text")
@click.pass_obj
def tail_job(api: Api, job_id: str, raw: bool) -> None:
    """Print a job's stream from its start to its end."""
    write: Callable[[str], None] = print_line if raw else print_text

    async def work() -> None:
        async with api.open("GET", f"/v1/jobs/{job_id}/events") as response:
            async for line in response.content:
                write(line.decode())

    run(work())


def print_line(line: str) -> None:
    click.echo(line, nl=False)


def print_text(line: str) -> None:
    """Prints the text of a data line and skips other lines; raises ClickException for an error event."""
    if not line.startswith("data: "):
        return
    if line.startswith("data: [DONE]"):
        click.echo()
        return
    data = json.loads(line.removeprefix("data: "))
    if "error" in data:
        raise click.ClickException(data["error"]["message"])
    for choice in data["choices"]:
        click.echo(choice["delta"].get("content") or "", nl=False)
