"""`ignite dead`: what was given up, and its replay. With an operator's key (or none, where none is needed): of every
tenant, with the messages that nobody could decode; with another key: one's own jobs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import click

from ignite.commands.api_client import Api, Refused, run, talks_to_the_api
from ignite.commands.jobs import moment

OWN, ALL, MESSAGES = "/v1/jobs", "/v1/dead", "/v1/dead/messages"
OWN_DEAD = {"status": "failed", "code": "attempts_exhausted"}
PAGE = 100
MESSAGE = "undecodable-"


@click.group()
@talks_to_the_api
@click.pass_context
def dead(context: click.Context, url: str, key: str | None) -> None:
    """Jobs that were given up after too many attempts or lost workers, and messages that nobody could decode."""
    context.obj = Api(url, key)


@dead.command("ls")
@click.option("--model", help="only jobs for this model")
@click.pass_obj
def list_dead(api: Api, model: str | None) -> None:
    """All of them, newest first, each with what was said last."""

    async def work() -> None:
        click.echo(f"{'ID':<41}  {'FINISHED':<14}  {'ATTEMPTS':>8}  {'TENANT':<12}  {'MODEL':<16}  ERROR")
        async for job in dead_jobs(api, model):
            click.echo(
                f"{job['id']}  {moment(job['finished_at']):<14}  {job['attempts']:>8}  {job.get('tenant', ''):<12}  "
                f"{job['model']:<16}  {job['error']['message']}"
            )
        if messages := await undecodable(api):
            click.echo(f"\n{'MESSAGE':<24}  {'SET ASIDE':<14}  {'BYTES':>8}  {'QUEUE':<30}  REASON")
        for each in messages:
            click.echo(
                f"{each['id']}  {moment(each['set_aside_at']):<14}  {each['bytes']:>8}  {each['queue']:<30}  "
                f"{each['reason']}"
            )

    run(work())


@dead.command("replay")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="every dead job")
@click.option("--model", help="with --all: only jobs for this model")
@click.pass_obj
def replay(api: Api, ids: Sequence[str], everything: bool, model: str | None) -> None:
    """Try dead jobs again, each under its own id; put messages back into the queues they came from."""
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
@click.option("--all", "everything", is_flag=True, help="every one of them")
@click.pass_obj
def purge(api: Api, ids: Sequence[str], everything: bool) -> None:
    """Forget messages that nobody could decode. Dead jobs go by themselves, when their retention ends."""
    require_one(ids, everything)

    async def work() -> None:
        for each in [message["id"] for message in await undecodable(api)] if everything else ids:
            await api.json("DELETE", f"{MESSAGES}/{each}")
            click.echo(f"{each}  forgotten")

    run(work())


def require_one(ids: Sequence[str], everything: bool) -> None:
    if bool(ids) == everything:
        raise click.UsageError("name them, or say --all")


async def path_of(api: Api) -> str:
    """Where this key finds dead jobs."""
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
