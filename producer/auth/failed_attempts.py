"""Counts failed authentications, logs them without the key, and limits them per address. Beyond the limit the server
also holds its answers back, which costs the address its time and the server nothing.

The limit does not affect calls with a correct key from the same address. Keys are too long to be guessed, so the limit
only bounds the log and the work.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network

import structlog
from cachetools import LRUCache

from producer.metrics import AUTH_FAILURES
from shared.errors import AuthenticationFailed, IgniteError, RateLimited

log = structlog.get_logger(__name__)

BURST = 30
"""Calls with wrong keys from one address that get 401 in a row; the rest get 429."""

REFILL = 0.5
"""Calls with wrong keys per second that are allowed again."""

LOG_EVERY = 10.0
"""Seconds between two log lines about one address."""

REMEMBERED = 10_000
"""Addresses. The one whose last failure is oldest is dropped first."""

IPV6_PREFIX = 64
"""Bits of an IPv6 network: one client usually has all of its addresses."""


@dataclass(slots=True)
class Allowance:
    """`left`: failures that are answered at once. `at`: when that was counted. `exceeded`: the last one was not."""

    left: float = BURST
    at: float = math.inf
    exceeded: bool = False

    def take(self, now: float) -> None:
        self.left = min(BURST, self.left + max(0.0, now - self.at) * REFILL)
        self.at = now
        self.exceeded = self.left < 1
        if not self.exceeded:
            self.left -= 1


@dataclass(slots=True)
class Attempts:
    """An address's failures. `failed`: failures since the last log line."""

    with_key: Allowance = field(default_factory=Allowance)
    without_key: Allowance = field(default_factory=Allowance)
    logged_at: float = -math.inf
    failed: int = 0


class FailedAuthentications:
    def __init__(self) -> None:
        self._by_address: LRUCache[str, Attempts] = LRUCache(REMEMBERED)

    def note(self, peer: str | None, error: AuthenticationFailed, *, with_key: bool) -> IgniteError:
        """Counts a failure and returns the error to answer: `error`, or RateLimited. `peer`: the client's address.
        Calls without a key get `error` always.
        """
        address, now = network_of(peer), time.monotonic()
        attempts = self._of(address)
        reason = "unknown_key" if with_key else "no_key"
        AUTH_FAILURES.labels(reason).inc()
        attempts.failed += 1
        if now - attempts.logged_at >= LOG_EVERY:
            log.warning("auth.failed", address=address, reason=reason, times=attempts.failed)
            attempts.logged_at, attempts.failed = now, 0
        allowance = attempts.with_key if with_key else attempts.without_key
        allowance.take(now)
        if not (with_key and allowance.exceeded):
            return error
        return RateLimited(
            "Too many calls with unknown API keys came from this address: check the key, and retry later.",
            code="too_many_failed_authentications",
            retry_after=math.ceil((1 - allowance.left) / REFILL),
        )

    def exceeded(self, peer: str | None, *, with_key: bool) -> bool:
        """Whether the address's last failure exceeded what is answered at once."""
        attempts = self._by_address.get(network_of(peer))
        return attempts is not None and (attempts.with_key if with_key else attempts.without_key).exceeded

    def _of(self, address: str) -> Attempts:
        return self._by_address.setdefault(address, Attempts())


def network_of(peer: str | None) -> str:
    """Returns the address that failures are counted by: IPv4 whole, IPv6 by its network."""
    try:
        address = ip_address((peer or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, IPV6_PREFIX), strict=False))
