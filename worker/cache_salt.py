"""Separates the tenants in the engines' prefix caches: a cached prompt's faster answer must not tell one tenant what
another has asked.
"""

from __future__ import annotations

import hmac
import os
from typing import Any

from shared.ports import Document, DocumentChanged, Documents
from shared.ports.documents import FLEET

KIND = "cache-salt"
KEPT = 10 * 365 * 86400.0
"""Seconds for which the key is kept. Another key costs no more than caches that are cold."""


class CacheSalt:
    """Salts for engines. They are derived from tenants, but do not name them."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, tenant: str, clients: Any = None) -> str:
        """Returns the salt for a tenant's request. `clients`: the client's own, which separates it further."""
        # No tenant's name has a NUL, so no tenant can choose another's salt.
        words = tenant if clients is None else f"{tenant}\0{clients}"
        return hmac.digest(self._key, words.encode(), "sha256").hex()


async def open_cache_salt(documents: Documents) -> CacheSalt:
    """All workers share a key, since several may send to one engine. Raises BackendUnavailable."""
    while (known := await documents.get(KIND, FLEET, "key")) is None:
        try:
            known = await documents.put(Document(KIND, FLEET, "key", os.urandom(32).hex().encode()), expires_in=KEPT)
            break
        except DocumentChanged:
            continue
    return CacheSalt(known.value)
