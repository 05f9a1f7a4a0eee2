"""`ignite doctor`: checks settings, servers, files, engine and ports, and prints how to fix each problem."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click

from producer.auth.keys import KeyRepository
from producer.storage import open_storage
from shared.backends import diagnose, open_backend, open_documents
from shared.errors import DataDirectoryInUse, EngineError, IgniteError
from shared.logs import set_up_logs
from shared.ports import Backend
from shared.setting_urls import without_password
from shared.settings import CONFIG_FILE, Settings, SettingsError, load_settings
from worker.engines.llamacpp.gguf import check_gguf

ANSWER_TIMEOUT = 5.0
LEAST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `advice`: how to fix the problem, if `ok` is False."""

    what: str
    ok: bool
    detail: str
    advice: str = ""


Check = Callable[[Settings], AsyncIterator[Finding]]


def run_doctor(options: Mapping[str, Any]) -> None:
    """Prints every finding. The exit status is 1 if there is a problem."""
    set_up_logs("critical", "text")  # Errors are reported as findings, so the drivers' log lines would repeat them.
    try:
        settings = load_settings(options)
    except SettingsError as error:
        report(
            Finding(
                "settings", False, str(error), advice="Correct the option, the variable or the line in ignite.toml."
            )
        )
        raise SystemExit(1) from None
    bad = asyncio.run(examine(settings))
    click.echo(f"Problems found: {bad}." if bad else "No problems found.")
    raise SystemExit(1 if bad else 0)


async def examine(settings: Settings) -> int:
    """Runs all checks, prints their findings, and returns the number of problems."""
    checks: Sequence[Check] = (
        check_python,
        check_settings,
        check_backend,
        check_keys,
        check_files,
        check_engine,
        check_port,
    )
    bad = 0
    for check in checks:
        async for finding in check(settings):
            report(finding)
            bad += not finding.ok
    return bad


def report(finding: Finding) -> None:
    mark = click.style("ok ", fg="green") if finding.ok else click.style("BAD", fg="red", bold=True)
    click.echo(f"{mark}  {finding.what:<10}  {finding.detail}")
    if finding.advice and not finding.ok:
        click.echo(f"                 → {finding.advice}")


async def check_python(_: Settings) -> AsyncIterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= LEAST_PYTHON
    yield Finding("python", fine, version, advice=f"Install Python {'.'.join(map(str, LEAST_PYTHON))} or newer.")


async def check_settings(settings: Settings) -> AsyncIterator[Finding]:
    source = f"{CONFIG_FILE.resolve()} and the environment" if CONFIG_FILE.exists() else "the environment"
    mode = "distributed (RabbitMQ and Redis)" if settings.distributed else "embedded (one process, no servers)"
    yield Finding("settings", True, f"{mode}, from {source}")


ADVICE = {
    "broker": "Start RabbitMQ, or correct IGNITE_AMQP_URL: amqp://USER:PASSWORD@HOST:5672/VHOST (TLS: amqps, 5671).",
    "store": "Start Redis, or correct IGNITE_REDIS_URL: redis://:PASSWORD@HOST:6379/0 (TLS: rediss).",
}


async def check_backend(settings: Settings) -> AsyncIterator[Finding]:
    """Checks each server by itself. Checks that need all servers run only if all of them answer."""
    try:
        parts = await diagnose(settings)
    except SettingsError as error:
        yield Finding("store", False, str(error), advice=ADVICE["store"])
        return
    for part, problem in parts.items():
        yield Finding(part, problem is None, str(problem or "answers"), advice=ADVICE[part])
    if not any(parts.values()):
        async for finding in check_open_backend(settings):
            yield finding


async def check_open_backend(settings: Settings) -> AsyncIterator[Finding]:
    advice = (
        "Read the logs of RabbitMQ and Redis."
        if settings.distributed
        else f"Check that {settings.data_dir} is writable and that no other Ignite process uses it."
    )
    try:
        async with asyncio.timeout(3 * ANSWER_TIMEOUT), open_backend(settings) as backend:
            if not settings.distributed:
                for part, problem in (await backend.check()).items():
                    yield Finding(part, problem is None, str(problem or "answers"), advice=advice)
            for warning in await backend.warnings(settings.job_deadline):
                yield Finding("note", True, warning)
            async for finding in check_workers(settings, backend):
                yield finding
    except DataDirectoryInUse as error:
        yield Finding("database", True, str(error))
    except SettingsError as error:
        yield Finding("store", False, str(error), advice="Change Redis's configuration, or the setting named above.")
    except (IgniteError, TimeoutError) as error:
        yield Finding("backend", False, str(error) or "did not answer in time", advice=advice)


async def check_keys(settings: Settings) -> AsyncIterator[Finding]:
    """Checks that keys exist. Ignores a store that does not answer, which `check_backend` has reported."""
    with suppress(IgniteError, SettingsError):
        async with open_documents(settings) as documents:
            stored = len([key async for key in KeyRepository(documents).all()])
        there_are = bool(settings.keys or stored)
        if settings.no_auth:
            yield Finding("keys", True, "not required (no_auth): every caller is an operator")
            return
        detail = f"{len(settings.keys)} in IGNITE_API_KEYS, {stored} stored" if there_are else "none"
        advice = "Create a key with 'ignite keys create --name NAME', or serve this machine with --no-auth."
        yield Finding("keys", there_are or (settings.on_loopback and not settings.distributed), detail, advice=advice)


async def check_files(settings: Settings) -> AsyncIterator[Finding]:
    """Checks the storage of uploads and batches by listing one object."""
    where = settings.files_url or f"the directory {settings.files_dir or settings.data_dir / 'files'}"
    advice = "Correct files_dir; or files_url, files_endpoint and the variables AWS_ACCESS_KEY_ID, … of S3."
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            async for _ in open_storage(settings).objects():
                break
    except TimeoutError:
        yield Finding("files", False, f"{where} has not answered within {ANSWER_TIMEOUT:g} s", advice=advice)
    except (IgniteError, SettingsError) as error:
        yield Finding("files", False, str(error), advice=advice)
    else:
        yield Finding("files", True, where)


async def check_workers(settings: Settings, backend: Backend) -> AsyncIterator[Finding]:
    if settings.distributed:
        workers = await backend.registry.workers()
        serving = ", ".join(sorted({model.id for worker in workers for model in worker.models}))
        detail = f"{len(workers)} connected, serving {serving}" if workers else "none connected"
        advice = "Start one: ignite worker --engine … --model … (with the same IGNITE_AMQP_URL and IGNITE_REDIS_URL)."
        yield Finding("workers", bool(workers), detail, advice=advice)


async def check_engine(settings: Settings) -> AsyncIterator[Finding]:
    match settings.engine:
        case "llamacpp":
            yield check_llamacpp(settings)
        case "vllm":
            yield check_command(settings)
        case "openai":
            yield await check_server(settings)
        case "simulated":
            yield Finding("engine", True, "simulated, for load tests only")


def check_llamacpp(settings: Settings) -> Finding:
    from importlib.util import find_spec

    if find_spec("xllamacpp") is None:
        return Finding(
            "engine", False, "xllamacpp is not installed", advice="Run 'make up' once, or pip install xllamacpp."
        )
    path = Path(settings.model) if settings.model else None
    if path is None:
        return Finding("engine", True, "llamacpp with the demo model")
    try:
        check_gguf(path)
    except EngineError as error:
        return Finding("engine", False, str(error), advice="Name a complete GGUF file with --model.")
    return Finding("engine", True, f"llamacpp with {path}")


def check_command(settings: Settings) -> Finding:
    program = (settings.engine_command or "vllm serve").split()[0]
    found = shutil.which(program)
    advice = f"Install it (pip install {program}), or name another serving command with --engine-command."
    return Finding("engine", found is not None, found or f"the command {program!r} is not on PATH", advice=advice)


async def check_server(settings: Settings) -> Finding:
    url = settings.engine_url
    if url is None:
        return Finding(
            "engine", False, "the openai engine has no server", advice="Set --engine-url http://host:port/v1."
        )
    shown = without_password(url)
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT)
    headers = {"authorization": f"Bearer {settings.engine_api_key}"} if settings.engine_api_key else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(f"{url.rstrip('/')}/models") as response,
        ):
            fine, detail = is_usable_status(response.status), f"{shown} answers {response.status}"
            if response.status in (401, 403):
                detail += ": it refuses the API key (--engine-api-key)"
    except TimeoutError:
        fine, detail = False, f"{shown} has not answered within {ANSWER_TIMEOUT:g} s"
    except (aiohttp.ClientError, ValueError) as error:
        fine, detail = False, f"{shown} does not answer ({type(error).__name__})"
    return Finding(
        "engine", fine, detail, advice="Start that server, or correct --engine-url (up to and including /v1)."
    )


def is_usable_status(status: int) -> bool:
    """Whether a server with this status on /models can serve: some servers have no list of models, so 404 counts as
    usable; a refused key does not.
    """
    return status < 500 and status not in (401, 403)


async def check_port(settings: Settings) -> AsyncIterator[Finding]:
    for option, port in (("port", settings.port), ("grpc-port", settings.grpc_port if settings.grpc else None)):
        if port is None:
            continue
        if (error := refusal_to_bind(settings.host, port)) is None:
            yield Finding(option, True, f"{settings.host}:{port} is free")
        else:
            yield await check_listener(settings, option, port, error=error)


def refusal_to_bind(host: str, port: int) -> OSError | None:
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


async def check_listener(settings: Settings, option: str, port: int, error: OSError) -> Finding:
    """Checks a port that cannot be bound: it is fine if a ready Ignite process listens there."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT)
    if await answers_as_ignite(f"http://{settings.host}:{settings.port}/readyz", timeout):
        return Finding(option, True, f"{settings.host}:{port}: Ignite is running there and is ready")
    advice = f"Stop the process that uses this port, or choose another port with --{option}."
    return Finding(option, False, f"{settings.host}:{port} cannot be bound: {error.strerror}", advice=advice)


async def answers_as_ignite(url: str, timeout: aiohttp.ClientTimeout) -> bool:
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return response.status == 200 and "checks" in await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False
