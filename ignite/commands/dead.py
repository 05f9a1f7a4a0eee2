"""`ignite dead`: lists and replays dead jobs. An operator's key (or no key, with no_auth) shows the jobs of every
tenant and undecodable messages; another key shows its tenant's jobs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import click

from ignite.commands.api_client import Api, Refused, api_options, run
from ignite.commands.jobs import moment

OWN, ALL, MESSAGES = "/v1/jobs", "/v1/dead", "/v1/dead/messages"
OWN_DEAD = {"status": "failed", "code": "attempts_exhausted"}
PAGE = 100
MESSAGE = "undecodable-"


@click.group()
@api_options
@click.pass_context
def dead(context: click.Context, url: str, key: str | None) -> None:
    """List and replay dead jobs and undecodable messages.

    A dead job has failed after too many attempts or lost workers.
    """
    context.obj = Api(url, key)


@dead.command("ls")
@click.option("--model", help="only jobs for this model")
@click.pass_obj
def list_dead(api: Api, model: str | None) -> None:
    """List dead jobs with their last error, newest first, then undecodable messages."""

    async def work() -> None:
        click.echo(f"{'ID':<41}  {'FINISHED':<14}  {'ATTEMPTS':>8}  {'TENANT':<12}  {'MODEL':<16}  ERROR")
        empty = True
        async for job in dead_jobs(api, model):
            empty = False
            click.echo(
                f"{job['id']}  {moment(job['finished_at']):<14}  {job['attempts']:>8}  {job.get('tenant', ''):<12}  "
                f"{job['model']:<16}  {job['error']['message']}"
            )
        if messages := await undecodable(api):
            click.echo(f"\n{'MESSAGE':<24}  {'SET ASIDE':<14}  {'BYTES':>8}  {'QUEUE':<30}  REASON")
        elif empty:
            click.echo("There are no dead jobs. 'ignite jobs ls --status failed' lists all failed jobs.", err=True)
        for each in messages:
            click.echo(
                f"{each['id']}  {moment(each['set_aside_at']):<14}  {each['bytes']:>8}  {each['queue']:<30}  "
                f"{each['reason']}"
            )

    run(work())


@dead.command("replay")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="replay every dead job")
@click.option("--model", help="with --all: only jobs for this model")
@click.pass_obj
def replay(api: Api, ids: Sequence[str], everything: bool, model: str | None) -> None:
    """Run dead jobs again under their ids; put messages back into their queues."""
    require_one(ids, everything)

    async def work() -> None:
        path = await path_of(api)
        for each in [job["id"] async for job in dead_jobs(api, model)] if everything else ids:
            if each.startswith(MESSAGE):
                message = await api.json("POST", f"{MESSAGES}/{each}/replay")
                click.echo(f"{each}  put back into {message['queue']}")
            else:
                job = await api.json("POST", f"{path}/{each}/retry")
                click.echo(f"{job['id']}  {job['status']}")

    run(work())


@dead.command("purge")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="delete every undecodable message")
@click.pass_obj
def purge(api: Api, ids: Sequence[str], everything: bool) -> None:
    """Delete undecodable messages. Dead jobs are deleted when their retention ends."""
    require_one(ids, everything)

    async def work() -> None:
        for each in [message["id"] for message in await undecodable(api)] if everything else ids:
            await api.json("DELETE", f"{MESSAGES}/{each}")
            click.echo(f"{each}  deleted")

    run(work())


def require_one(ids: Sequence[str], everything: bool) -> None:
    if bool(ids) == everything:
        raise click.UsageError("give one or more IDs, or --all")


async def path_of(api: Api) -> str:
    """Returns the API path that lists dead jobs for this key."""
    try:
        await api.json("GET", ALL, params={"limit": "1"})
    except Refused as refused:
        if refused.status != 403:
            raise
        return OWN
    return ALL


async def undecodable(api: Api) -> Sequence[Mapping[str, Any]]:
    return (await api.json("GET", MESSAGES))["data"] if await path_of(api) == ALL else ()


async def dead_jobs(api: Api, model: str | None) -> AsyncGenerator[dict[str, Any]]:
    path = await path_of(api)
    wanted = (OWN_DEAD if path == OWN else {}) | {"limit": str(PAGE)} | ({"model": model} if model else {})
    after: dict[str, str] = {}
    while True:
        page = await api.json("GET", path, params=wanted | after)
        for job in page["data"]:
            yield job
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}
