"""`ignite keys`: creates, lists and revokes stored API keys. The command writes to the API's store and does not need a
running API: write access to the store is the permission to create keys.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import click

from ignite.commands.jobs import moment
from ignite.commands.options import settings_of, settings_options
from producer.auth.keys import PREFIX, KeyRepository, StoredKey
from shared.backends import open_documents
from shared.errors import IgniteError
from shared.limits import Limits
from shared.settings import Settings, split_list

FIRST_KEY = (
    "This is the first key. Within seconds a running 'ignite up' requires a key for every call, also by 'ignite jobs' "
    "and similar commands (--key or IGNITE_API_KEY). Jobs and files without a key belong to the tenant 'local': "
    "a key created with --tenant local can read them. 'ignite up --no-auth' still serves without keys."
)

Work = Callable[[KeyRepository], Coroutine[Any, Any, None]]


@click.group()
@settings_options("amqp_url", "redis_url", "data_dir")
@click.pass_context
def keys(context: click.Context, **options: Any) -> None:
    """Create, list and revoke API keys. Limits are set per key."""
    context.obj = settings_of(options)


COUNT = click.IntRange(min=1)
WEIGHT = click.FloatRange(0.01, 1000)


@keys.command("create")
@click.option("--name", required=True, help="the key's name; also its tenant unless --tenant is given")
@click.option("--tenant", help="tenant of the key; keys of one tenant see the same jobs")
@click.option("--rpm", type=COUNT, help="limit of requests per minute [default: no limit]")
@click.option("--tpm", type=COUNT, help="limit of tokens per minute, prompts and answers together [default: no limit]")
@click.option("--concurrency", type=COUNT, help="limit of unfinished jobs [default: no limit]")
@click.option("--models", default="", help="models the key may use, separated by commas [default: all]")
@click.option(
    "--weight",
    type=WEIGHT,
    default=1.0,
    show_default=True,
    help="the tenant's share of the workers, relative to other tenants",
)
@click.option(
    "--operator",
    is_flag=True,
    help="allow the operator's commands: queues, workers, dead jobs of every tenant, metrics",
)
@click.pass_obj
def create(
    settings: Settings,
    name: str,
    tenant: str | None,
    rpm: int | None,
    tpm: int | None,
    concurrency: int | None,
    models: str,
    weight: float,
    operator: bool,
) -> None:
    """Create a key and print it once. Only its hash is stored."""
    limits = Limits(rpm, tpm, concurrency, models=tuple(filter(None, map(str.strip, models.split(",")))))

    async def work(repository: KeyRepository) -> None:
        first = not await repository.ever()
        secret, key = await repository.create(name, tenant=tenant, limits=limits, weight=weight, operator=operator)
        click.echo(secret)
        click.echo(
            f"{key.id}: '{key.name}' for tenant '{key.tenant}', {allowance(key)}; "
            f"stored in {store_location(settings)}.\nThe key is not shown again. Running servers accept it.",
            err=True,
        )
        if first and not settings.distributed:
            click.echo(FIRST_KEY, err=True)

    with_repository(settings, work)


@keys.command("ls")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object per line")
@click.pass_obj
def list_keys(settings: Settings, as_json: bool) -> None:
    """List the stored keys, oldest first."""

    async def work(repository: KeyRepository) -> None:
        found = sorted([key async for key in repository.all()], key=lambda key: key.created_at)
        if not as_json:
            click.echo(f"{'ID':<20}  {'NAME':<16}  {'TENANT':<16}  {'KEY':<15}  {'CREATED':<14}  LIMITS")
        for key in found:
            click.echo(json.dumps(described(key)) if as_json else row(key))
        if not found:
            click.echo("No keys are stored. Create one with 'ignite keys create --name NAME'.", err=True)

    require_data(settings)
    with_repository(settings, work)


@keys.command("revoke")
@click.argument("name_or_id")
@click.option("--cancel-jobs", is_flag=True, help="also cancel the key's jobs and batches; without it they run on")
@click.pass_obj
def revoke(settings: Settings, name_or_id: str, cancel_jobs: bool) -> None:
    """Revoke a key. Within seconds every API refuses it and its open calls end."""

    async def work(repository: KeyRepository) -> None:
        key = await repository.revoke(name_or_id, cancel_jobs=cancel_jobs)
        jobs = "its jobs and batches are cancelled" if cancel_jobs else "its jobs and batches run on"
        click.echo(
            f"{key.id} ({key.name}) is revoked: within seconds every API refuses it, its open calls end, and {jobs}."
        )
        if not await repository.any():
            click.echo(
                "That was the last stored key. Calls without a key are still refused: create another key, set "
                "IGNITE_API_KEYS, or start with --no-auth to serve this machine without keys.",
                err=True,
            )

    require_data(settings)
    with_repository(settings, work)


def with_repository(settings: Settings, work: Work) -> None:
    async def opened() -> None:
        async with open_documents(settings) as documents:
            await work(KeyRepository(documents))

    try:
        asyncio.run(opened())
    except IgniteError as error:
        raise click.ClickException(str(error)) from None


def require_data(settings: Settings) -> None:
    """Raises ClickException if the data directory has no database, instead of creating one there."""
    if not settings.distributed and not (settings.data_dir / "ignite.db").exists():
        raise click.ClickException(
            f"there is no Ignite data in {settings.data_dir}: name the directory with --data-dir, "
            "or set IGNITE_AMQP_URL and IGNITE_REDIS_URL."
        )


def store_location(settings: Settings) -> str:
    """Returns the keys' location for display, without passwords."""
    if settings.redis_url is None:
        return str(settings.data_dir.resolve())
    urls = map(urlsplit, split_list(settings.redis_url))
    return "Redis at " + ", ".join(f"{url.netloc.rpartition('@')[2]}{url.path}" for url in urls)


def row(key: StoredKey) -> str:
    return (
        f"{key.id:<20}  {key.name:<16}  {key.tenant:<16}  {PREFIX}…{key.hint:<4}  {moment(key.created_at):<14}  "
        f"{allowance(key)}"
    )


def allowance(key: StoredKey) -> str:
    limits = key.limits
    parts = (
        f"{limits.requests_per_minute} requests a minute" if limits.requests_per_minute else "",
        f"{limits.tokens_per_minute} tokens a minute" if limits.tokens_per_minute else "",
        f"{limits.concurrency} jobs at once" if limits.concurrency else "",
        f"models {','.join(limits.models)}" if limits.models else "",
        f"weight {key.weight:g}" if key.weight != 1 else "",
        "operator" if key.operator else "",
    )
    return ", ".join(filter(None, parts)) or "no limits"


def described(key: StoredKey) -> dict[str, Any]:
    """Returns the key as JSON fields, without its hash."""
    fields = asdict(key)
    del fields["digest"]
    return {"id": key.id} | fields
