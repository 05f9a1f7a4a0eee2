"""Authenticates calls by their API keys. A tenant may have several keys and sees only its own jobs and files."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from cachetools import FIFOCache

from producer.auth.failed_attempts import FailedAuthentications
from producer.auth.keys import FORM, KeyRepository, StoredKey, digest
from shared.errors import AuthenticationFailed, PermissionDenied, unknown_model
from shared.limits import UNLIMITED, Limits

LOCAL_TENANT = "local"
"""The tenant of calls without a key, if the server accepts them."""

FRESH = 3.0
"""Seconds for which a key that was read from the store is cached. After that a revoked key is refused everywhere."""

REMEMBERED = 10_000
"""Entries of each cache: known keys, and unknown ones."""


METRICS = "/metrics"

NEVER_READ = float("-inf")


class Keyless(Enum):
    """Whether calls without a key are accepted, as the settings say."""

    NEVER = "never"
    UNTIL_FIRST_KEY = "until the first key"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller and its rights. `key`: the stored key's id, for logs and limits; None for other calls."""

    tenant: str
    key: str | None = None
    limits: Limits = UNLIMITED
    weight: float = 1.0
    operator: bool = False

    def may_use(self, model: str) -> bool:
        return not self.limits.models or model in self.limits.models

    def require_model(self, model: str, asked: str) -> None:
        """Raises NotFound, as for unknown models, if the key may not use `model`. `asked`: its name in the request."""
        if not self.may_use(model):
            raise unknown_model(asked)


class Keyring:
    """Authenticates callers by the keys in the settings and in the store."""

    def __init__(
        self, configured: Mapping[str, str], stored: KeyRepository, keyless: Keyless, metrics_key: str | None = None
    ) -> None:
        self._configured = [(digest(key), Principal(tenant)) for key, tenant in configured.items()]
        self._stored = RecentKeys(stored)
        self._metrics_key = None if metrics_key is None else digest(metrics_key)
        self._failed = FailedAuthentications()
        self._keyless = KeylessAccess(stored, Keyless.NEVER if configured else keyless)

    async def is_keyless(self) -> bool:
        """Whether calls without a key are accepted now. Raises BackendUnavailable."""
        return await self._keyless.is_allowed()

    def reads_metrics(self, authorization: str | None) -> bool:
        """Whether the header has the key that may only read metrics."""
        known = self._metrics_key
        return known is not None and hmac.compare_digest(known, digest(key_in(authorization)))

    async def authenticate(self, authorization: str | None, peer: str | None) -> Principal:
        """Returns the caller with that Authorization header and counts failures of the address `peer`.

        Raises AuthenticationFailed, RateLimited, BackendUnavailable.
        """
        try:
            return await self.principal_of(authorization)
        except AuthenticationFailed as error:
            raise self._failed.note(peer, error, with_key=bool(key_in(authorization))) from None

    def holds_back(self, authorization: str | None, peer: str | None) -> bool:
        """Whether the answer to this failed authentication is to be held back, since the address has failed often."""
        return self._failed.exceeded(peer, with_key=bool(key_in(authorization)))

    async def principal_of(self, authorization: str | None) -> Principal:
        """Returns the caller with that Authorization header. Raises AuthenticationFailed, BackendUnavailable."""
        key = key_in(authorization)
        found = await self._look_up(key) if key else None
        if found is not None:
            return found
        if await self._keyless.is_allowed():
            return Principal(LOCAL_TENANT, operator=True)
        if not key:
            raise AuthenticationFailed("No API key was given. Send it as 'Authorization: Bearer YOUR_KEY'.")
        raise AuthenticationFailed("The API key is unknown or revoked.")

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
    """Returns the key in an Authorization header, or an empty string."""
    scheme, _, rest = (authorization or "").partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else ""


class RecentKeys:
    """Caches keys from the store. Unknown keys have a cache of their own, so that many wrong keys do not evict valid
    ones.
    """

    def __init__(self, stored: KeyRepository) -> None:
        self._stored = stored
        self._known: FIFOCache[str, tuple[float, StoredKey]] = FIFOCache(REMEMBERED)
        self._unknown: FIFOCache[str, float] = FIFOCache(REMEMBERED)

    async def find(self, digest: str) -> StoredKey | None:
        """Returns the key with this hash, at most FRESH seconds old."""
        since = time.monotonic() - FRESH
        read_at, key = self._known.get(digest, (NEVER_READ, None))
        if read_at > since:
            return key
        if self._unknown.get(digest, NEVER_READ) > since:
            return None
        return await self._read(digest)

    async def _read(self, digest: str) -> StoredKey | None:
        asked_at = time.monotonic()
        key = await self._stored.find(digest)
        self._known.pop(digest, None)
        self._unknown.pop(digest, None)
        if key is None:
            self._unknown[digest] = asked_at
        else:
            self._known[digest] = asked_at, key
        return key


class KeylessAccess:
    """Decides whether calls without a key are accepted. Once the first key has ended that, revoking all keys does not
    allow it again.
    """

    def __init__(self, stored: KeyRepository, keyless: Keyless) -> None:
        self._stored = stored
        self._keyless = keyless
        self._read_at = NEVER_READ
        self._reading = asyncio.Lock()

    async def is_allowed(self) -> bool:
        if self._is_stale():
            async with self._reading:
                if self._is_stale():
                    await self._refresh()
        return self._keyless is not Keyless.NEVER

    def _is_stale(self) -> bool:
        return self._keyless is Keyless.UNTIL_FIRST_KEY and time.monotonic() - self._read_at >= FRESH

    async def _refresh(self) -> None:
        if await self._stored.ever():
            self._keyless = Keyless.NEVER
        self._read_at = time.monotonic()


METRICS_READER = Principal("metrics", operator=True)
"""The caller with the metrics key, on the path of the metrics only."""


def require_operator(principal: Principal) -> None:
    """Raises PermissionDenied if the caller is not an operator."""
    if not principal.operator:
        raise PermissionDenied(
            "This call needs an operator's key; create one with 'ignite keys create --operator --name NAME'."
        )
