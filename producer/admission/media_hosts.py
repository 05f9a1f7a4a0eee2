"""Looks up the hosts of a request's media URLs, and refuses hosts that have a private address.

The engine looks them up again when it fetches, so a name that changes its address in between passes: only the engine's
own switch stops that (vLLM: `--allowed-media-domains`).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from producer.addresses import address_of, is_public_address
from shared.errors import InvalidRequest, Unavailable

LOOKUPS, LOOKUPS_OF_TENANT = 8, 4
"""Lookups at a time, in total and of one tenant. Each has a thread until the DNS server answers."""

TIMEOUT = 5.0
"""Seconds for all lookups of a request, the wait for a free thread included."""

FRESH = 30.0
"""Seconds for which an answer is used again."""

REMEMBERED = 2000
"""Hosts."""

Lookup = Callable[[str], Awaitable[Sequence[str]]]
"""Returns the addresses of a host. Raises socket.gaierror."""


class MediaHosts:
    def __init__(self, lookup: Lookup | None = None) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="media-host")
        self._lookup = lookup or self._addresses
        self._running: Counter[str] = Counter()
        self._ended = asyncio.Event()
        self._public: OrderedDict[str, tuple[float, bool]] = OrderedDict()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def check(self, hosts: Mapping[str, str], tenant: str) -> None:
        """`hosts`: each host with the field that names it. Raises InvalidRequest, Unavailable."""
        if not hosts:
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                for host, param in hosts.items():
                    if not await self._is_public(host, tenant):
                        reason = "its host is unknown, or leads to a private address"
                        raise InvalidRequest(f"Invalid value for '{param}': {reason}.", param=param)
        except (TimeoutError, socket.gaierror):
            raise Unavailable(
                "The host of an image could not be looked up in time: try again, or send the image as a data: URL.",
                retry_after=5,
            ) from None

    async def _is_public(self, host: str, tenant: str) -> bool:
        looked_up_at, public = self._public.get(host, (float("-inf"), False))
        if time.monotonic() - looked_up_at < FRESH:
            return public
        while self._running[tenant] >= LOOKUPS_OF_TENANT or self._running.total() >= LOOKUPS:
            self._ended.clear()
            await self._ended.wait()
        self._running[tenant] += 1
        looking = asyncio.ensure_future(self._lookup(host))
        looking.add_done_callback(lambda done: self._looked_up(done, host, tenant))
        # Shielded: a thread cannot be stopped, so its slot is free when the lookup ends.
        try:
            return are_public(await asyncio.shield(looking))
        except socket.gaierror as error:
            if error.errno in UNKNOWN:
                return False
            raise

    def _looked_up(self, looking: asyncio.Future[Sequence[str]], host: str, tenant: str) -> None:
        self._running[tenant] -= 1
        self._ended.set()
        self._running += Counter()  # Drops tenants without lookups.
        if looking.cancelled() or looking.exception() is not None:
            return
        self._public[host] = time.monotonic(), are_public(looking.result())
        self._public.move_to_end(host)
        if len(self._public) > REMEMBERED:
            self._public.popitem(last=False)

    async def _addresses(self, host: str) -> Sequence[str]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
        )
        return [str(info[4][0]) for info in found]


UNKNOWN = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
"""The errors of a host that does not exist or has no address."""


def are_public(addresses: Sequence[str]) -> bool:
    """Whether there are addresses, and all of them are public: an engine may take any of them."""
    found = [address_of(each) for each in addresses]
    return bool(found) and all(each is not None and is_public_address(each) for each in found)
