"""Checks webhook targets, because clients could use the URL to reach servers inside the private network (SSRF).

The URL is checked when the job is submitted and again before each event. The addresses of its host are checked after
the DNS lookup, and the address of each connection before it is opened.
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
    """The connection would go to a private address."""


def webhook_refusal(url: str | None, *, background: bool, settings: Settings) -> InvalidRequest | None:
    """Returns the error for a `webhook_url` that is not accepted, None for a good one. Does not look up its host."""
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
    """Returns why the URL is not accepted, None where it is; does not look up its host."""
    target = target_of(url)
    if isinstance(target, str):
        return target
    return None if private_allowed else private_fault(target)


def sendable(url: str, *, private_allowed: bool) -> URL | str:
    """Returns the normalised URL, or why it is not accepted."""
    if (fault := fault_of(url, private_allowed=private_allowed)) is not None:
        return fault
    target = target_of(url)
    return target.url if isinstance(target, Target) else target


def host_of(url: str) -> str | None:
    """Returns the URL's host, for the log: the rest may contain secrets."""
    target = target_of(url)
    return target.host if isinstance(target, Target) else None


LOOKUPS = 3
"""Concurrent DNS lookups. Each occupies a thread of the process's shared pool until the DNS server answers."""


class PublicAddresses(AbstractResolver):
    """Resolves a host to its public addresses only. Runs for every connection, so a DNS record that changes to a
    private address afterwards is refused.
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
        # Cancelling the request does not stop the thread, so the slot is released when the lookup ends.
        found = await asyncio.shield(lookup)
        public = [each for each in found if is_public_peer(each["host"])]
        if not public:
            raise OSError(f"{host} has no public address")
        return public

    def _looked_up(self, lookup: asyncio.Future[list[ResolveResult]]) -> None:
        self._slots.release()
        if not lookup.cancelled():
            lookup.exception()  # Marks it as retrieved: a cancelled request must not cause a logged crash.

    async def close(self) -> None:
        await self._resolver.close()


def is_public_peer(host: str) -> bool:
    address = address_of(host)
    return address is not None and is_public_address(address)


def public_socket(info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
    """Returns a socket for a connection to a public address. Raises NotPublic for any other."""
    family, kind, protocol, _, address = info
    if not is_public_peer(str(address[0])):
        raise NotPublic(errno.EACCES, f"{address[0]} is a private address")
    return socket.socket(family=family, type=kind, proto=protocol)


def connector(*, private_allowed: bool, limit: int) -> aiohttp.TCPConnector:
    """Returns a connector that connects to checked addresses only. It caches no DNS answers, so each one is checked."""
    if private_allowed:
        return aiohttp.TCPConnector(limit=limit)
    return aiohttp.TCPConnector(
        resolver=PublicAddresses(), use_dns_cache=False, socket_factory=public_socket, limit=limit
    )
