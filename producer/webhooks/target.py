"""Where webhooks may go. A URL comes from a client, and this server stands where clients may not look: inside.

The URL is judged when a job is submitted and again when something is sent; the addresses of its name are judged when a
connection is made, and the address of each connection before it is opened.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import aiohttp
from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from producer.addresses import Target, address_of, is_public_address, private_fault, target_of
from shared.errors import InvalidRequest
from shared.settings import Settings


class NotPublic(OSError):
    """A connection to a private address was about to be made."""


def webhook_refusal(url: str | None, *, background: bool, settings: Settings) -> InvalidRequest | None:
    """Why a request with this `webhook_url` is not accepted. Names are looked up only when something is sent."""
    if url is None:
        return None
    if settings.webhook_secret is None:
        reason = "this server sends no webhooks, because it has no 'webhook_secret' to sign them with"
    elif not background:
        reason = "webhooks are for jobs: set 'background', or 'Prefer: respond-async'"
    else:
        reason = fault_of(url, private_allowed=settings.webhooks_may_be_private)
    return (reason and InvalidRequest(f"Invalid value for 'webhook_url': {reason}.", param="webhook_url")) or None


def fault_of(url: str, *, private_allowed: bool) -> str | None:
    """What is wrong with the URL itself."""
    target = target_of(url)
    if isinstance(target, str):
        return target
    return None if private_allowed else private_fault(target)


def sendable(url: str, *, private_allowed: bool) -> URL | str:
    """The URL as the HTTP client takes it, or what is wrong with it."""
    if (fault := fault_of(url, private_allowed=private_allowed)) is not None:
        return fault
    target = target_of(url)
    return target.url if isinstance(target, Target) else target


def host_of(url: str) -> str | None:
    """The URL's host, for the log: the rest may be a secret."""
    target = target_of(url)
    return target.host if isinstance(target, Target) else None


LOOKUPS = 3
"""Names that are looked up at a time. Each takes one of the few threads that the whole process has for such things, and
keeps it for as long as the name's server is silent.
"""


class PublicAddresses(AbstractResolver):
    """Finds a name's public addresses and no others. It is asked when a connection is made, so a name that leads
    elsewhere by then leads nowhere.
    """

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._resolver = resolver or ThreadedResolver()
        self._slots = asyncio.Semaphore(LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        await self._slots.acquire()
        lookup = asyncio.ensure_future(self._resolver.resolve(host, port, family))
        lookup.add_done_callback(self._looked_up)
        # Whoever waits may give up; the thread does not.
        found = await asyncio.shield(lookup)
        public = [each for each in found if is_public_peer(each["host"])]
        if not public:
            raise OSError(f"{host} has no public address")
        return public

    def _looked_up(self, lookup: asyncio.Future[list[ResolveResult]]) -> None:
        self._slots.release()
        if not lookup.cancelled():
            lookup.exception()  # It is told to who waits; where nobody does, it is no crash.

    async def close(self) -> None:
        await self._resolver.close()


def is_public_peer(host: str) -> bool:
    address = address_of(host)
    return address is not None and is_public_address(address)


def public_socket(info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
    """A socket for a connection to a public address, whatever has led to it. Raises NotPublic."""
    family, kind, protocol, _, address = info
    if not is_public_peer(str(address[0])):
        raise NotPublic(errno.EACCES, f"{address[0]} is a private address")
    return socket.socket(family=family, type=kind, proto=protocol)


def connector(*, private_allowed: bool, limit: int) -> aiohttp.TCPConnector:
    """Names are looked up for each connection: an answer of the DNS that was judged is the one that is used."""
    if private_allowed:
        return aiohttp.TCPConnector(limit=limit)
    return aiohttp.TCPConnector(
        resolver=PublicAddresses(), use_dns_cache=False, socket_factory=public_socket, limit=limit
    )
