"""Requests for batches that may be sent again: under an `Idempotency-Key`, or by an SDK that was cut off.

What a request is called stands for the whole batch that it becomes, and that is written before the batch is there.
Whoever finds a name whose batch is missing makes that very batch. So a process that dies between the two steps leaves
nothing undone, nobody waits for the dead, and a name never stands for two batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
    """What a request is called, and what tells it from others. `kept` in seconds. `again`: it may have been made
    before; an SDK's first try was not, whatever stands under its name.
    """

    digest: str
    fingerprint: str
    kept: float
    again: bool


class Named(Kept):
    """What a name stands for. `again`: a later try has made it, before the first."""

    fingerprint: str
    batch: Batch
    again: bool


def request_name(headers: Mapping[str, str], body: bytes, call: str) -> RequestName | None:
    """None where nobody sends it again. `call`: what the request asks for. Raises InvalidRequest."""
    if (key := idempotency_key(headers.get(HEADER), body, call)) is not None:
        return RequestName(f"key:{key.name}", key.fingerprint, key.kept, again=True)
    sent = sdk_try(headers, body, call)
    if sent is None:
        return None
    return RequestName(f"sent:{digest(sent.digest.encode())}", sent.digest, SENT_FOR, again=sent.again)


class IdempotentBatches:
    def __init__(self, documents: Documents, batches: BatchRepository) -> None:
        self._documents = documents
        self._batches = batches

    async def find(self, tenant: str, name: RequestName | None) -> Batch | None:
        """The batch that the request has become already. Raises IdempotencyKeyReused."""
        if name is None or not name.again or (found := await self._get(tenant, name)) is None:
            return None
        return await self._standing(found, name)

    async def create(self, batch: Batch, name: RequestName | None) -> Batch:
        """Make the batch; the one that its request stands for already, where there is one. Raises
        IdempotencyKeyReused.
        """
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
                # A first try that was overtaken by its own second one is that one's batch.
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
        """No longer than the batch: a name that outlived it would have it run again."""
        value = Named(fingerprint=name.fingerprint, batch=batch, again=name.again).model_dump_json().encode()
        document = Document(kind_of(name), batch.tenant, KIND, value=value, version=version)
        return await self._documents.put(document, expires_in=min(name.kept, self._batches.life(batch)))


def kind_of(name: RequestName) -> str:
    """A kind of its own for each name: nobody lists them, and a list of them would outlive them."""
    return f"{KIND}:{name.digest}"


def decoded(document: Document) -> Named:
    return Named.model_validate_json(document.value)
