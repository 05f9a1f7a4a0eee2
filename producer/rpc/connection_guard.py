"""Limits the gRPC connections of one address. gRPC's core accepts them by itself, without asking this process, and has
only a limit for all of them. So their number is read from the kernel every second, and the newest ones of an address
beyond its limit are shut down; the core then closes them as if the client had left.

On Linux only. A client that opens new connections faster than they are shut down needs a firewall or a proxy.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections import defaultdict
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import structlog

from producer.http.connection.limits import address_of
from producer.metrics import CONNECTIONS_CUT

log = structlog.get_logger(__name__)

CHECK_EVERY = 1.0
"""Seconds."""

LOG_EVERY = 10.0

TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
ESTABLISHED = "01"

Connections = dict[str, str]
"""The client's address of each open connection, by the socket's inode."""


class ConnectionGuard:
    """`limit`: connections of one address. `port`: the gRPC server's."""

    def __init__(self, port: int, limit: int) -> None:
        self._port = port
        self._limit = limit
        self._known: Connections = {}
        self._logged_at = float("-inf")

    async def run(self) -> None:
        """Checks until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            await asyncio.to_thread(self.check)

    def check(self) -> int:
        """Shuts down the newest connections of addresses over the limit. Returns their number."""
        found = connections_to(self._port)
        kept = {inode: address for inode, address in self._known.items() if found.get(inode) == address}
        # The kernel numbers sockets as they are opened, but from ranges of each core: the order is approximate.
        newcomers = sorted(found.keys() - kept.keys(), key=int)
        self._known = kept | {inode: found[inode] for inode in newcomers}
        of_address: defaultdict[str, list[str]] = defaultdict(list)
        for inode, address in self._known.items():
            of_address[address].append(inode)
        beyond = {inode for inodes in of_address.values() for inode in inodes[self._limit :]}
        cut = shut_down(beyond) if beyond else 0
        if cut:
            self._note(cut)
        return cut

    def _note(self, cut: int) -> None:
        CONNECTIONS_CUT.labels("grpc_address_limit").inc(cut)
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY:
            self._logged_at = now
            log.warning(
                "grpc.connections_bounded", closed=cut, limit=self._limit, next="an address's newest are closed"
            )


def connections_to(port: int) -> Connections:
    """Returns the connections to a local port, from the kernel's tables; none where there are no such tables."""
    found: Connections = {}
    for table in TABLES:
        with suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                local, peer, state = fields[1:4]
                if state == ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
                    found[fields[9]] = address_of(plain_address(peer.rpartition(":")[0]))
    return found


def plain_address(words: str) -> str:
    """Returns an address of the kernel's tables: 32-bit words in hex, in the machine's byte order."""
    raw = b"".join(int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8))
    return str(ip_address(raw))


def shut_down(inodes: set[str]) -> int:
    """Shuts down this process's sockets with these inodes. Returns their number."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").removeprefix("socket:[").removesuffix("]") not in inodes:
                continue
            # A copy of the descriptor: the core may close its own at any time.
            with socket.socket(fileno=os.dup(int(descriptor))) as connection:
                if str(os.fstat(connection.fileno()).st_ino) in inodes:
                    connection.shutdown(socket.SHUT_RDWR)
                    count += 1
    return count
