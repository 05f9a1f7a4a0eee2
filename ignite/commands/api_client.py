"""The HTTP client of the commands that call the API."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from shared.setting_urls import without_password

if TYPE_CHECKING:
    import aiohttp

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_TIMEOUT = 5.0
TEMPORARY = (429, 502, 503, 504)
"""Statuses of temporary failures."""


class Unreachable(click.ClickException):
    """The API cannot be reached or is overloaded; a retry can help."""


class Refused(click.ClickException):
    """The API's answer was an error, with this HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Calls the API. Raises Unreachable or Refused, each with a one-sentence message."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        if urlsplit(self._url).scheme not in ("http", "https") or not urlsplit(self._url).hostname:
            raise click.ClickException("--url (IGNITE_URL) must be an address like http://127.0.0.1:8000.")
        if key and not (key.isascii() and key.isprintable()):
            raise click.ClickException("--key (IGNITE_API_KEY) must have printable ASCII characters only.")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    async def json(self, method: str, path: str, **options: Any) -> Any:
        async with self.open(method, path, **options) as response:
            return await response.json()

    @asynccontextmanager
    async def open(self, method: str, path: str, **options: Any) -> AsyncGenerator[aiohttp.ClientResponse]:
        import aiohttp  # Imported here: --help would take twice as long.

        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(self._url, headers=self._headers, timeout=timeout) as session,
                session.request(method, path, **options) as response,
            ):
                if response.status >= 400:
                    message = await message_of(response)
                    if response.status == 401:
                        message = f"{message} Give a key with --key or IGNITE_API_KEY."
                    raise Unreachable(message) if response.status in TEMPORARY else Refused(message, response.status)
                yield response
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            shown = without_password(self._url)
            raise Unreachable(f"{shown} does not answer ({error}). Is 'ignite up' running?") from None


async def message_of(response: aiohttp.ClientResponse) -> str:
    try:
        return (await response.json(content_type=None))["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answered {response.status}: is this an Ignite server?"


def run(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(work)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


Command = TypeVar("Command", bound=Callable[..., Any])


def api_options(command: Command) -> Command:
    """Adds the options --url and --key."""
    url = click.option("--url", envvar="IGNITE_URL", default=DEFAULT_URL, show_default=True, help="base URL of the API")
    key = click.option("--key", envvar="IGNITE_API_KEY", help="API key (not needed on an API without keys)")
    return url(key(command))


def show(api: Api, method: str, path: str) -> None:
    """Prints the API's answer as indented JSON."""

    async def work() -> None:
        click.echo(json.dumps(await api.json(method, path), indent=2, ensure_ascii=False))

    run(work())
