"""`ignite dead`: jobs that were given up for taking too many attempts or workers, and their replay."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import click

from ignite.api_client import Api, run, talks_to_the_api
from ignite.jobs_command import moment

DEAD = {"status": "failed", "code": "attempts_exhausted"}
PAGE = 100


@click.group()
@talks_to_the_api
@click.pass_context
def dead(context: click.Context, url: str, key: str | None) -> None:
    """Jobs that were given up after too many attempts or lost workers."""
    context.obj = Api(url, key)


@dead.command("ls")
@click.option("--model", help="only jobs for this model")
@click.pass_obj
def list_dead(api: Api, model: str | None) -> None:
    """All of them, newest first, each with what was said last."""

    async def work() -> None:
        click.echo(f"{'ID':<41}  {'FINISHED':<14}  {'ATTEMPTS':>8}  {'MODEL':<16}  ERROR")
        async for job in dead_jobs(api, model):
            click.echo(
                f"{job['id']}  {moment(job['finished_at']):<14}  {job['attempts']:>8}  {job['model']:<16}  "
                f"{job['error']['message']}"
            )

    run(work())


@dead.command("replay")
@click.argument("job_ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="every dead job")
@click.option("--model", help="with --all: only jobs for this model")
@click.pass_obj
def replay(api: Api, job_ids: Sequence[str], everything: bool, model: str | None) -> None:
    """Try dead jobs again, each under its own id."""
    if bool(job_ids) == everything:
        raise click.UsageError("name the jobs, or say --all")

    async def work() -> None:
        wanted = [job["id"] async for job in dead_jobs(api, model)] if everything else job_ids
        for job_id in wanted:
            job = await api.json("POST", f"/v1/jobs/{job_id}/retry")
            click.echo(f"{job['id']}  {job['status']}")

    run(work())


async def dead_jobs(api: Api, model: str | None) -> AsyncGenerator[dict[str, Any]]:
    wanted = DEAD | {"limit": str(PAGE)} | ({"model": model} if model else {})
    after: dict[str, str] = {}
    while True:
        page = await api.json("GET", "/v1/jobs", params=wanted | after)
        for job in page["data"]:
            yield job
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}
