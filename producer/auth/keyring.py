"""Keys and tenants. What one tenant made, no other sees; a tenant may hold several keys."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from producer.auth.failed_attempts import FailedAuthentications
from producer.auth.keys import FORM, KeyRepository, StoredKey, digest
from shared.errors import AuthenticationFailed, PermissionDenied, unknown_model
from shared.limits import UNLIMITED, Limits

ANYONE = "local"
"""The tenant of calls without a key, where those are served."""

FRESH = 3.0
"""Seconds for which an answer of the store about a key is good: a revoked key is refused everywhere after that."""

REMEMBERED = 10_000
"""Answers that are kept, of keys that are known and of such that are not each."""


METRICS = "/metrics"

LONG_AGO = float("-inf")


class Keyless(Enum):
    """Whether calls without a key are served. It is decided by the settings alone, except that keys can only end it."""

    NEVER = "never"
    UNTIL_FIRST_KEY = "until the first key"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, and what they may do. `key` is the key's id, for logs and limits; None where it has no limits."""

    tenant: str
    key: str | None = None
    limits: Limits = UNLIMITED
    weight: float = 1.0
    operator: bool = False

    def may_use(self, model: str) -> bool:
        return not self.limits.models or model in self.limits.models

    def require_model(self, model: str, asked: str) -> None:
        """`asked`: the name that the request has for it. Raises NotFound, as where there is no such model."""
        if not self.may_use(model):
            raise unknown_model(asked)


class Keyring:
    """Tells principals by their keys: those of the settings, and those in the store."""

    def __init__(
        self, configured: Mapping[str, str], stored: KeyRepository, keyless: Keyless, metrics_key: str | None = None
    ) -> None:
        self._configured = [(digest(key), Principal(tenant)) for key, tenant in configured.items()]
        self._stored = RecentKeys(stored)
        self._metrics_key = None if metrics_key is None else digest(metrics_key)
        self._failed = FailedAuthentications()
        self._entry = KeylessEntry(stored, Keyless.NEVER if configured else keyless)

    async def is_keyless(self) -> bool:
        """Whether a call without a key is served now. Raises BackendUnavailable."""
        return await self._entry.is_free()

    def reads_metrics(self, authorization: str | None) -> bool:
        """Whether the key is the one that is for metrics alone."""
        known = self._metrics_key
        return known is not None and hmac.compare_digest(known, digest(key_in(authorization)))

    async def authenticate(self, authorization: str | None, peer: str | None) -> Principal:
        """As `principal_of`, for a caller at the address `peer`, whose failures are noted. Raises RateLimited, too."""
        try:
            return await self.principal_of(authorization)
        except AuthenticationFailed as error:
            raise self._failed.note(peer, error, with_key=bool(key_in(authorization))) from None

    async def principal_of(self, authorization: str | None) -> Principal:
        """Raises AuthenticationFailed, BackendUnavailable."""
        key = key_in(authorization)
        found = await self._look_up(key) if key else None
        if found is not None:
            return found
        if await self._entry.is_free():
            return Principal(ANYONE, operator=True)
        if not key:
            raise AuthenticationFailed("No API key was given. Send it as 'Authorization: Bearer YOUR_KEY'.")
        raise AuthenticationFailed("The API key is not known here.")

    async def _look_up(self, key: str) -> Principal | None:
        offered = digest(key)
        matching = [principal for known, principal in self._configured if hmac.compare_digest(known, offered)]
        if matching:
            return matching[0]
        stored = await self._stored.find(offered) if FORM.fullmatch(key) else None
        if stored is None or not hmac.compare_digest(stored.digest, offered):
            return None
        return Principal(stored.tenant, stored.id, stored.limits, weight=stored.weight, operator=stored.operator)


def key_in(authorization: str | None) -> str:
    """The key in a header; nothing where there is none."""
    scheme, _, rest = (authorization or "").partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else ""


class RecentKeys:
    """What the store said about keys in the last moments. A flood of wrong ones neither fills the memory nor pushes
    the right ones out.
    """

    def __init__(self, book: KeyRepository) -> None:
        self._book = book
        self._known: dict[str, tuple[float, StoredKey]] = {}
        self._unknown: dict[str, float] = {}

    async def find(self, digest: str) -> StoredKey | None:
        """The key with this hash, as it was at most FRESH seconds ago."""
        since = time.monotonic() - FRESH
        read_at, key = self._known.get(digest, (LONG_AGO, None))
        if read_at > since:
            return key
        if self._unknown.get(digest, LONG_AGO) > since:
            return None
        return await self._read(digest)

    async def _read(self, digest: str) -> StoredKey | None:
        asked_at = time.monotonic()
        key = await self._book.find(digest)
        self._known.pop(digest, None)
        self._unknown.pop(digest, None)
        if key is None:
            self._unknown[digest] = asked_at
        else:
            self._known[digest] = asked_at, key
        for kept in (self._known, self._unknown):
            if len(kept) > REMEMBERED:
                del kept[next(iter(kept))]
        return key


class KeylessEntry:
    """Whether calls without a key are served. Where that ends with the first key, revoking the last one does not bring
    it back.
    """

    def __init__(self, stored: KeyRepository, keyless: Keyless) -> None:
        self._stored = stored
        self._keyless = keyless
        self._looked_at = LONG_AGO
        self._looking = asyncio.Lock()

    async def is_free(self) -> bool:
        if self._must_look():
            async with self._looking:
                if self._must_look():
                    await self._look()
        return self._keyless is not Keyless.NEVER

    def _must_look(self) -> bool:
        return self._keyless is Keyless.UNTIL_FIRST_KEY and time.monotonic() - self._looked_at >= FRESH

    async def _look(self) -> None:
        if await self._stored.ever():
            self._keyless = Keyless.NEVER
        self._looked_at = time.monotonic()


METRICS_READER = Principal("metrics", operator=True)
"""Who has the key for metrics, on their path alone."""


def require_operator(principal: Principal) -> None:
    """Raises PermissionDenied."""
    if not principal.operator:
        raise PermissionDenied("This needs an operator's key: 'ignite keys create --operator'.")
