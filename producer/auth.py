"""Keys and tenants. A key is a tenant: what one key made, no other key sees."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from shared.errors import AuthenticationFailed

ANYONE = "local"
"""The one tenant where no keys are set, which is allowed on loopback only."""


class Keyring:
    """Knows keys by their hash and compares in constant time."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._tenants = [(digest(key), tenant) for key, tenant in keys.items()]

    def tenant_of(self, authorization: str | None) -> str:
        """Raises AuthenticationFailed."""
        if not self._tenants:
            return ANYONE
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise AuthenticationFailed("No API key was given. Send it as 'Authorization: Bearer YOUR_KEY'.")
        return self._look_up(digest(key.strip()))

    def _look_up(self, offered: bytes) -> str:
        found = [tenant for known, tenant in self._tenants if hmac.compare_digest(known, offered)]
        if not found:
            raise AuthenticationFailed("The API key is not known here.")
        return found[0]


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
