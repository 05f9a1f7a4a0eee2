"""Creates one batch for a request that is sent several times: with an `Idempotency-Key`, or by an SDK that retries.

The request's name is stored first, with the whole batch; then the batch is created. A process that finds a name without
its batch creates that same batch. So a crash between the two steps loses nothing, and a name never has two batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from producer.batches.document import Batch, Kept
from producer.batches.repository import BatchRepository
from producer.jobs.idempotency import HEADER, digest, idempotency_key, sdk_try
from shared.errors import key_reused
from shared.ports import Document, DocumentChanged, Documents

KIND = "batch-request"
SENT_FOR = 1800.0
"""Seconds for which an SDK may send a request again: twice, after ten minutes of silence each time."""


@dataclass(frozen=True, slots=True)
class RequestName:
    """A request's name and fingerprint. `kept`: its life in seconds. `again`: the request may be a repetition; an SDK's
    first try is not, whatever is stored for its name.
    """

    digest: str
    fingerprint: str
    kept: float
    again: bool


class Named(Kept):
    """The batch of a name. `again`: a retry stored it, before the first try did."""

    fingerprint: str
    batch: Batch
    again: bool


def request_name(headers: Mapping[str, str], body: bytes, value: Any, *, call: str) -> RequestName | None:
    """Returns the request's name, None where it cannot be a repetition. `value`: the parsed body; `call`: the kind of
    call. Raises InvalidRequest.
    """
    if (key := idempotency_key(headers.get(HEADER), value, call)) is not None:
        return RequestName(f"key:{key.name}", key.fingerprint, kept=key.kept, again=True)
    sent = sdk_try(headers, body, call)
    if sent is None:
        return None
    return RequestName(f"sent:{digest(sent.digest.encode())}", sent.digest, kept=SENT_FOR, again=sent.again)


class IdempotentBatches:
    def __init__(self, documents: Documents, batches: BatchRepository) -> None:
        self._documents = documents
        self._batches = batches

    async def find(self, tenant: str, name: RequestName | None) -> Batch | None:
        """Returns the batch that the request created before, or None. Raises IdempotencyKeyReused."""
        if name is None or not name.again or (found := await self._get(tenant, name)) is None:
            return None
        return await self._standing(found, name)

    async def create(self, batch: Batch, name: RequestName | None) -> Batch:
        """Creates the batch, or returns the one that its request created before. Raises IdempotencyKeyReused."""
        if name is None:
            await self._batches.create(batch)
            return batch
        found = await self._get(batch.tenant, name)
        while found is None or not name.again:
            try:
                found = await self._put(batch, name, 0 if found is None else found.version)
                break
            except DocumentChanged:
                found = await self._get(batch.tenant, name)
                # When the retry was faster than the first try, both get the retry's batch.
                name = replace(name, again=name.again or (found is not None and decoded(found).again))
        return await self._standing(found, name)

    async def _standing(self, found: Document, name: RequestName) -> Batch:
        named = decoded(found)
        if named.fingerprint != name.fingerprint:
            raise key_reused()
        return await self._batches.ensure(named.batch)

    async def _get(self, tenant: str, name: RequestName) -> Document | None:
        return await self._documents.get(kind_of(name), tenant, KIND)

    async def _put(self, batch: Batch, name: RequestName, version: int) -> Document:
        """Stores the name, at most for the life of the batch: a name that outlived it would run it again."""
        value = Named(fingerprint=name.fingerprint, batch=batch, again=name.again).model_dump_json().encode()
        document = Document(kind_of(name), batch.tenant, KIND, value=value, version=version)
        return await self._documents.put(document, expires_in=min(name.kept, self._batches.life(batch)))


def kind_of(name: RequestName) -> str:
    """Returns a document kind per name: names are never listed, and a shared index would outlive them."""
    return f"{KIND}:{name.digest}"


def decoded(document: Document) -> Named:
    return Named.model_validate_json(document.value)
