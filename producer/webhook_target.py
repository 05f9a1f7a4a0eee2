"""Where webhooks may go. A URL comes from a client, and this server stands where clients may not look: inside."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from shared.errors import InvalidRequest
from shared.settings import Settings

MAX_URL = 2048
"""Characters."""

DISGUISED = tuple(map(ip_network, ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "fec0::/10")))
"""IPv6 addresses that are global by their form and may lead to an address of IPv4 that is not, or are of old local
kinds.
"""


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
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is not a URL"
    if parts.scheme not in ("http", "https") or not host or len(url) > MAX_URL or not url.isprintable():
        return f"expected an http or https URL of at most {MAX_URL} characters"
    if not private_allowed and (host == "localhost" or is_private(host)):
        return "it leads to a private address, which this server does not send to"
    return None


def is_private(host: str) -> bool:
    """Whether the host is an address, and one that the internet at large has no business with; names are not. Numbers
    that are no address as it should be written (127.1) are one to others.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host.replace(".", "").isdigit()
    disguised = isinstance(address, IPv6Address) and any(address in network for network in DISGUISED)
    return disguised or address.is_multicast or not address.is_global


class PublicAddresses(AbstractResolver):
    """Finds a name's public addresses and no others. It is asked when a connection is made, so a name that leads
    elsewhere by then leads nowhere.
    """

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._resolver = resolver or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        public = [each for each in found if not is_private(each["host"])]
        if not public:
            raise OSError(f"{host} has no public address")
        return public

    async def close(self) -> None:
        await self._resolver.close()
