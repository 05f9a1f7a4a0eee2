"""Limits a process's open HTTP connections and the time for which each may wait for its client.

A connection that waits for its client is on one of a few lists, ordered by time, so that neither a request nor the
periodic check examines all connections. At a limit, a new connection replaces one that serves no request.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from itertools import islice, takewhile
from typing import Protocol

import structlog

from producer.metrics import CONNECTIONS, CONNECTIONS_CUT
from shared.settings import Settings

log = structlog.get_logger(__name__)

CHECK_EVERY = 1.0
"""Seconds between checks of the lists."""

LOG_EVERY = 10.0
"""Seconds between log lines about the same reason."""

LEAST_BODY_RATE = 256
"""Bytes per second of a body that a client must send on average."""

REPLACEABLE_AFTER = 2.0
"""Seconds without a byte after which a slow sender or reader is replaced by a new connection."""

REPLACEABLE_OF_MANY_AFTER = 0.1
"""The same, for connections of an address that has more than half of all."""

OWN_DESCRIPTORS = 40
"""File descriptors of the process itself: store, broker, gRPC, files."""

ROOM_FOR_REFUSALS = 16
"""Connections beyond the limit that are answered before they are closed."""

LEAST_HOLD, MOST_HOLD = 1.0, 30.0
"""Seconds for which the answer to an address with too many failed authentications is held back."""

HELD_PER_SECOND = 20
"""Answers to one address that are sent per second after they were held back."""

EXAMINED = 256
"""Connections of each list that are examined to find one to replace."""


class Connection(Protocol):
    """A connection as `Connections` uses it."""

    address: str

    def cut(self, reason: str) -> None:
        """Closes the connection, with an answer if one can still be sent."""
        ...

    def is_reading(self) -> bool:
        """Whether the server waits for the client's bytes; False while the server itself has paused reading."""
        ...

    def unsent(self) -> int:
        """Returns the bytes of answers that the client has not taken."""
        ...


@dataclass(slots=True)
class Progress:
    """Progress of a body or a reader. `amount`: a body's received bytes, or a reader's unsent bytes."""

    since: float
    last: float
    amount: int = 0


class Connections:
    def __init__(self, settings: Settings, descriptors: int | None = None) -> None:
        """`descriptors`: file descriptors that this process may open; default: its RLIMIT_NOFILE."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if descriptors is None else descriptors
        self.descriptor_limit = max(most // 2, most - max(64, most // 16))
        free = max(self.descriptor_limit // 2, self.descriptor_limit - OWN_DESCRIPTORS)
        self.limit = min(settings.connection_limit, free)
        self.address_limit = min(settings.address_connection_limit, max(1, self.limit * 4 // 5))
        self._head_timeout = settings.head_timeout
        self._idle_timeout = settings.idle_timeout
        self._body_timeout = settings.body_timeout
        self._write_timeout = settings.write_timeout
        self._open: set[Connection] = set()
        self._of_address: Counter[str] = Counter()
        self._heads: dict[Connection, float] = {}
        self._idle: dict[Connection, float] = {}
        self._bodies: dict[Connection, Progress] = {}
        self._readers: dict[Connection, Progress] = {}
        self._held: dict[Connection, float] = {}
        self._held_of: Counter[str] = Counter()
        self._lingering: dict[Connection, float] = {}
        self._closing: dict[Connection, float] = {}
        self._logged_at: dict[str, float] = {}
        self._unlogged: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._interval = min(CHECK_EVERY, self._head_timeout / 2, self._body_timeout / 2, self._write_timeout / 2)

    # ── number of connections ──

    def admit(self, connection: Connection, descriptor: int) -> bool:
        """Registers a connection and returns whether it may be served. At a limit, closes one that serves no request
        to make room. The caller calls `forget` when the connection is closed.
        """
        reason = self._full(connection.address, descriptor)
        admitted = reason is None or self._make_room(connection.address, own=reason == "address_limit")
        if reason is not None:
            self.note(reason, admitted=admitted)
        self._open.add(connection)
        self._of_address[connection.address] += 1
        CONNECTIONS.set(len(self._open))
        if admitted:
            self._heads[connection] = self._now() + self._head_timeout
        self._schedule()
        return admitted

    def over_refusal_limit(self, address: str, descriptor: int) -> bool:
        """Whether too many connections are being refused to answer one more."""
        beyond = (
            len(self._open) - self.limit,
            descriptor - self.descriptor_limit,
            self._of_address[address] - self.address_limit,
        )
        return max(beyond) > ROOM_FOR_REFUSALS

    def forget(self, connection: Connection) -> None:
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._of_address[connection.address] -= 1
        if not self._of_address[connection.address]:
            del self._of_address[connection.address]
        for each in (self._heads, self._idle, self._bodies, self._readers, self._lingering, self._closing):
            each.pop(connection, None)
        if self._held.pop(connection, None) is not None:
            self._held_of[connection.address] -= 1
            self._held_of += Counter()  # Drops addresses without held connections.
        CONNECTIONS.set(len(self._open))

    def _full(self, address: str, descriptor: int) -> str | None:
        if len(self._open) >= self.limit:
            return "connection_limit"
        if descriptor >= self.descriptor_limit:
            return "descriptors"
        if self._of_address[address] >= self.address_limit:
            return "address_limit"
        return None

    def _make_room(self, address: str, *, own: bool) -> bool:
        """Closes a connection that waits for its client, the longest wait first. `address`: the new connection's;
        `own`: only one of the same address gives way.
        """
        if self._replace(address if own else None, REPLACEABLE_AFTER):
            return True
        greedy = [each for each, count in self._of_address.most_common(1) if count > self.limit / 2]
        return bool(greedy) and not own and greedy[0] != address and self._replace(greedy[0], REPLACEABLE_OF_MANY_AFTER)

    def _replace(self, address: str | None, after: float) -> bool:
        """`address`: only this one's connections. `after`: seconds without a byte of slow senders and readers."""
        quiet = self._now() - after
        candidates: tuple[Iterable[Connection], ...] = (
            islice(self._lingering, EXAMINED),
            islice(self._held, EXAMINED),
            islice(self._heads, EXAMINED),
            islice(self._idle, EXAMINED),
            (each for each, seen in islice(self._bodies.items(), EXAMINED) if seen.last < quiet),
            (each for each, seen in islice(self._readers.items(), EXAMINED) if seen.last < quiet),
        )
        for some in candidates:
            found = next((each for each in some if address in (None, each.address)), None)
            if found is not None:
                self.forget(found)
                found.cut("gave_way")
                return True
        return False

    # ── time limits ──

    def await_head(self, connection: Connection) -> None:
        """Starts the head timeout: the client has begun a request's head."""
        self._idle.pop(connection, None)
        if connection in self._open:
            self._heads.setdefault(connection, self._now() + self._head_timeout)

    def head_complete(self, connection: Connection) -> None:
        """Ends the head and idle timeouts: a request's head is complete."""
        self._heads.pop(connection, None)
        self._idle.pop(connection, None)

    def await_body(self, connection: Connection, received: int) -> None:
        """Starts or extends the body timeout: `received` bytes of an unfinished body have arrived."""
        now = self._now()
        seen = self._bodies.get(connection)
        if seen is None:
            seen = self._bodies[connection] = Progress(now, now)
        seen.last = now
        seen.amount += received

    def body_complete(self, connection: Connection) -> None:
        self._bodies.pop(connection, None)

    def await_request(self, connection: Connection) -> None:
        """Starts the idle timeout: the connection has no open request."""
        if connection in self._open:
            self._idle[connection] = self._now() + self._idle_timeout

    def await_client_read(self, connection: Connection) -> None:
        """Starts the write timeout: the client does not read its answer."""
        now = self._now()
        if connection in self._open:
            self._readers[connection] = Progress(now, now, connection.unsent())

    def client_has_read(self, connection: Connection) -> None:
        self._readers.pop(connection, None)

    @property
    def held(self) -> int:
        """The number of connections whose answers are held back."""
        return len(self._held)

    def hold(self, connection: Connection) -> float:
        """Registers a connection whose answer is held back. Returns for how many seconds: the longer, the more of its
        address are. A new connection replaces it before any other.
        """
        if connection in self._open and connection not in self._held:
            self._held[connection] = self._now()
            self._held_of[connection.address] += 1
        return min(MOST_HOLD, max(LEAST_HOLD, self._held_of[connection.address] / HELD_PER_SECOND))

    def await_close(self, connection: Connection, within: float | None = None) -> None:
        """Starts the closing timeout: the client has still to read the rest of its answer. `within` seconds, and not
        for longer than there is room, if it is still sending though it was answered.
        """
        self._heads.pop(connection, None)
        self._idle.pop(connection, None)
        self._bodies.pop(connection, None)
        if connection in self._open:
            deadlines = self._closing if within is None else self._lingering
            deadlines[connection] = self._now() + (self._write_timeout if within is None else within)

    def check(self) -> None:
        """Closes the connections whose timeouts have passed."""
        now = self._now()
        lists = (
            (self._heads, "head_timeout"),
            (self._idle, "idle"),
            (self._lingering, "closing"),
            (self._closing, "closing"),
        )
        for deadlines, reason in lists:
            for connection in overdue(deadlines, now):
                del deadlines[connection]
                self._cut(connection, reason)
        for connection, seen in [*self._bodies.items()]:
            if self._body_is_late(connection, seen, now):
                del self._bodies[connection]
                self._cut(connection, "body_timeout")
        for connection, seen in [*self._readers.items()]:
            if (unsent := connection.unsent()) < seen.amount:
                seen.last = now
            seen.amount = unsent
            if now > seen.last + self._write_timeout:
                del self._readers[connection]
                self._cut(connection, "write_timeout")

    def _body_is_late(self, connection: Connection, seen: Progress, now: float) -> bool:
        if not connection.is_reading():
            seen.since += self._interval
            seen.last = now
            return False
        allowed = self._body_timeout + seen.amount / LEAST_BODY_RATE
        return now > seen.last + self._body_timeout or now > seen.since + allowed

    def _cut(self, connection: Connection, reason: str) -> None:
        if reason != "idle":
            self.note(reason)
        connection.cut(reason)

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self.check()
        finally:
            if self._open:
                self._schedule()

    # ── metrics and log ──

    def note(self, reason: str, *, admitted: bool = False) -> None:
        """Counts a connection that was refused or closed. Logs once in LOG_EVERY seconds for each reason."""
        CONNECTIONS_CUT.labels(reason).inc()
        self._unlogged[reason] += 1
        now = self._now()
        if now - self._logged_at.get(reason, -LOG_EVERY) < LOG_EVERY:
            return
        self._logged_at[reason] = now
        caps = ("connection_limit", "address_limit", "descriptors")
        write = log.warning if reason in caps else log.info
        then = (
            "connections without a request are closed for new ones; if there are none, new ones get 503"
            if reason in caps
            else "the connection is closed"
        )
        write(
            "connections.bounded",
            reason=reason,
            times=self._unlogged.pop(reason),
            open=len(self._open),
            limit=self.limit,
            admitted=admitted,
            next=then,
        )

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def overdue(deadlines: dict[Connection, float], now: float) -> list[Connection]:
    """Returns the connections whose deadlines have passed. The deadlines are sorted."""
    return [connection for connection, _ in takewhile(lambda each: each[1] <= now, deadlines.items())]


def address_of(host: str | None) -> str:
    """Returns the address that connections are counted by: IPv4 whole, IPv6 by the /64 network of one client."""
    if host is None or ":" not in host:
        return host or ""
    try:
        parsed = IPv6Address(host)
    except ValueError:
        return host
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else f"{parsed.packed[:8].hex()}/64"
