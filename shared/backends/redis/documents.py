"""Documents on Redis: one hash for each, and one index of ids for each kind and tenant, in one slot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from shared.aio import run_and_discard
from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.jobs.records import milliseconds
from shared.ports import Document, DocumentChanged


class RedisDocuments:
    def __init__(self, pipeline: Pipeline) -> None:
        self._redis = pipeline

    async def put(self, document: Document, *, expires_in: float) -> Document:
        step = lua_steps.document_put(
            keys_of(document),
            id=document.id,
            read_version=document.version,
            value=document.value,
            ttl_ms=milliseconds(expires_in),
        )
        version = await self._redis.step(step)
        if not version:
            raise DocumentChanged(f"{document.kind} {document.id}")
        return replace(document, version=version)

    async def get(self, kind: str, tenant: str, id: str) -> Document | None:
        version, value = await self._redis.command("HMGET", keys.document(kind, tenant, id), "version", "value")
        return Document(kind, tenant, id, value=value, version=int(version)) if version else None

    async def list(
        self, kind: str, tenant: str, *, after: str | None = None, limit: int = 100, oldest_first: bool = False
    ) -> Sequence[Document]:
        found: list[Document] = []
        while len(found) < limit:
            wanted = limit - len(found)
            ids = await self._ids(kind, tenant, after, limit=wanted, oldest_first=oldest_first)
            documents = await asyncio.gather(*(self.get(kind, tenant, id) for id in ids))
            found += [document for document in documents if document is not None]
            self._forget(kind, tenant, [id for id, document in zip(ids, documents, strict=True) if document is None])
            if len(ids) < wanted:
                break
            after = ids[-1]
        return found

    async def delete(self, document: Document) -> bool:
        step = lua_steps.document_delete(keys_of(document), id=document.id, read_version=document.version)
        deleted = await self._redis.step(step)
        if deleted < 0:
            raise DocumentChanged(f"{document.kind} {document.id}")
        return bool(deleted)

    async def _ids(self, kind: str, tenant: str, after: str | None, limit: int, oldest_first: bool) -> list[str]:
        start = f"({after}" if after else "-" if oldest_first else "+"
        order = (start, "+", "BYLEX") if oldest_first else (start, "-", "BYLEX", "REV")
        raw = await self._redis.command("ZRANGE", keys.documents(kind, tenant), *order, "LIMIT", 0, limit)
        return [id.decode() for id in raw]

    def _forget(self, kind: str, tenant: str, ids: list[str]) -> None:
        """Removes ids of expired documents from the index. They stay in it until a list finds no document."""
        for id in ids:
            gone = Document(kind, tenant, id, value=b"")
            step = lua_steps.document_delete(keys_of(gone), id=id, read_version=0)
            self._redis.step(step).add_done_callback(run_and_discard)


def keys_of(document: Document) -> tuple[str, str]:
    return keys.document(document.kind, document.tenant, document.id), keys.documents(document.kind, document.tenant)
