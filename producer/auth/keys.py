"""Stores API keys, their limits and their revocations.

Only a key's SHA-256 is stored. A slow or salted hash, as passwords need, would not add protection: a key is 256 random
bits and cannot be guessed from its hash, and every call would pay for the slowness. The hash is also the document's id,
so one look-up finds a key. The look-up's time reveals nothing, because a caller cannot choose a hash's first bytes.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from shared.errors import Conflict, InvalidRequest, NotFound
from shared.limits import UNLIMITED, Limits
from shared.names import TENANT_RULE, bad_model, is_model_name, is_tenant_name, shown
from shared.ports import FLEET, Document, Documents

KIND = "key"
KEYED = "keyed"
"""The kind and the id of the document that exists once a key has been created."""

PREFIX = "sk-ignite-"
BITS = 256
FORM = re.compile(r"sk-ignite-[A-Za-z0-9_-]{43}")
"""The form of a stored key. Other keys are not looked up."""

HINT = 4
"""The number of a key's last characters that lists show, to recognise it."""

FOR_GOOD = 100 * 365 * 86400.0
"""Seconds. A key does not expire."""

PAGE = 100

REVOKED = "revoked-key"
KEPT_FOR = 86_400.0
"""Seconds for which a revocation is kept for API processes that are not running."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """A revoked key, as API processes read it. `key` and `tenant`: the key's id and tenant; `at`: Unix seconds."""

    id: str
    key: str
    tenant: str
    at: float
    cancel_jobs: bool = False


@dataclass(frozen=True, slots=True)
class StoredKey:
    """`digest`: the key's SHA-256 in hex. `tenant`: the owner of the key's jobs. `weight`: the tenant's share of the
    workers, relative to others. `operator`: the key may read and manage the whole fleet.
    """

    digest: str
    hint: str
    name: str
    tenant: str
    created_at: float
    limits: Limits = UNLIMITED
    weight: float = 1.0
    operator: bool = False

    @property
    def id(self) -> str:
        return f"key_{self.digest[:16]}"

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, value: bytes) -> StoredKey:
        fields: dict[str, Any] = orjson.loads(value)
        limits = fields.pop("limits")
        return cls(limits=Limits(**limits | {"models": tuple(limits["models"])}), **fields)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def check_name(name: str, param: str) -> str:
    if not is_tenant_name(name):
        raise InvalidRequest(f"Invalid {param} {shown(name)}: {TENANT_RULE}.", param=param)
    return name


class KeyRepository:
    """The stored keys of an installation."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def create(
        self,
        name: str,
        *,
        tenant: str | None = None,
        limits: Limits = UNLIMITED,
        weight: float = 1.0,
        operator: bool = False,
    ) -> tuple[str, StoredKey]:
        """Creates a key. Returns the secret, which is not stored, and the stored key. `tenant`: default is the name.

        Raises InvalidRequest, Conflict.
        """
        check_name(name, "name")
        check_name(tenant or name, "tenant")
        for model in limits.models:
            if not is_model_name(model):
                raise InvalidRequest(f"{bad_model(model)}.", param="models")
        if any([key async for key in self.all() if key.name == name]):
            raise Conflict(f"A key named {name!r} exists already: revoke it first, or choose another name.")
        await self._note_keyed()
        secret = PREFIX + secrets.token_urlsafe(BITS // 8)
        key = StoredKey(
            digest(secret),
            hint=secret[-HINT:],
            name=name,
            tenant=tenant or name,
            created_at=time.time(),
            limits=limits,
            weight=weight,
            operator=operator,
        )
        await self._documents.put(Document(KIND, FLEET, key.digest, value=key.encode()), expires_in=FOR_GOOD)
        return secret, key

    async def find(self, digest: str) -> StoredKey | None:
        """Returns the key with this hash."""
        document = await self._documents.get(KIND, FLEET, digest)
        return document and StoredKey.decode(document.value)

    async def with_id(self, key_id: str) -> StoredKey | None:
        """Returns the key with this id, which is the beginning of its hash."""
        begin = key_id.removeprefix("key_")
        found = await self._documents.list(KIND, FLEET, after=begin, limit=1, oldest_first=True)
        return StoredKey.decode(found[0].value) if found and found[0].id.startswith(begin) else None

    async def any(self) -> bool:
        return bool(await self._documents.list(KIND, FLEET, limit=1))

    async def ever(self) -> bool:
        """Whether a key exists or has existed in this store."""
        return await self._documents.get(KEYED, FLEET, KEYED) is not None or await self.any()

    async def _note_keyed(self) -> None:
        """Records that a key has existed, so that calls without a key stay refused after the last one is revoked."""
        await self._documents.put(Document(KEYED, FLEET, KEYED, value=b"{}"), expires_in=FOR_GOOD)

    async def all(self) -> AsyncGenerator[StoredKey]:
        """Yields all keys, unordered."""
        async for document in self._pages():
            yield StoredKey.decode(document.value)

    async def revoke(self, name_or_id: str, *, cancel_jobs: bool = False) -> StoredKey:
        """Revokes a key and ends its open calls; with `cancel_jobs` also its jobs and batches. Raises NotFound, and
        Conflict if several keys have the name.
        """
        found = [(document, StoredKey.decode(document.value)) async for document in self._pages()]
        named = [(document, key) for document, key in found if name_or_id in (key.name, key.id)]
        if not named:
            raise NotFound(f"There is no key {name_or_id!r}.")
        if len(named) > 1:
            ids = ", ".join(key.id for _, key in named)
            raise Conflict(f"Several keys are named {name_or_id!r}: give the id instead of the name ({ids}).")
        document, key = named[0]
        await self._note_keyed()
        await Revocations(self._documents).add(key, cancel_jobs=cancel_jobs)
        await self._documents.delete(document)
        return key

    async def _pages(self) -> AsyncGenerator[Document]:
        after = None
        while page := await self._documents.list(KIND, FLEET, after=after, limit=PAGE):
            for document in page:
                yield document
            after = page[-1].id


class Revocations:
    """Stores revocations for the API processes."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def add(self, key: StoredKey, *, cancel_jobs: bool) -> None:
        now = time.time()
        revocation = Revocation(f"{int(now * 1000):013d}-{key.id}", key.id, key.tenant, at=now, cancel_jobs=cancel_jobs)
        document = Document(REVOKED, FLEET, revocation.id, value=orjson.dumps(revocation))
        await self._documents.put(document, expires_in=KEPT_FOR)

    async def all(self) -> AsyncGenerator[Revocation]:
        """Yields the revocations, newest first."""
        after = None
        while page := await self._documents.list(REVOKED, FLEET, after=after, limit=PAGE):
            for document in page:
                yield Revocation(**orjson.loads(document.value))
            if len(page) < PAGE:
                return
            after = page[-1].id
