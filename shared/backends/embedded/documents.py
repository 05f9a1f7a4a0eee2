"""Documents in the embedded database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from shared.backends.embedded.database.connection import Database
from shared.backends.embedded.database.transactions import Connection
from shared.ports import Document, DocumentChanged

SWEPT = 100
"""Most expired documents that one write removes."""


class EmbeddedDocuments:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, document: Document, *, expires_in: float) -> Document:
        now = time.time()
        return await self._database.run(lambda db: put(db, document, now, expires_at=now + expires_in), durable=True)

    async def get(self, kind: str, tenant: str, id: str) -> Document | None:
        return await self._database.run(lambda db: get(db, kind, tenant, id=id, now=time.time()))

    async def list(
        self, kind: str, tenant: str, *, after: str | None = None, limit: int = 100, oldest_first: bool = False
    ) -> Sequence[Document]:
        return await self._database.run(
            lambda db: list_documents(
                db, kind=kind, tenant=tenant, after=after, limit=limit, oldest_first=oldest_first, now=time.time()
            )
        )

    async def delete(self, document: Document) -> bool:
        return await self._database.run(lambda db: delete(db, document, time.time()), durable=True)


def get(db: Connection, kind: str, tenant: str, *, id: str, now: float) -> Document | None:
    row = db.execute(
        "SELECT value, version FROM documents WHERE kind = ? AND tenant = ? AND id = ? AND expires_at > ?",
        (kind, tenant, id, now),
    ).fetchone()
    return Document(kind, tenant, id, *row) if row else None


def put(db: Connection, document: Document, now: float, *, expires_at: float) -> Document:
    """Writes a document. A repeated put finds its own write. Versions follow the clock, so a document that is created
    again never reuses an old version.
    """
    version, before, value = db.execute(
        "SELECT version, before, value FROM documents WHERE kind = ? AND tenant = ? AND id = ? AND expires_at > ?",
        (document.kind, document.tenant, document.id, now),
    ).fetchone() or (0, None, None)
    if (before, value) == (document.version, document.value):
        return replace(document, version=version)
    if version != document.version:
        raise DocumentChanged(f"{document.kind} {document.id}")
    written = replace(document, version=max(version + 1, int(now * 1_000_000)))
    db.execute(
        "INSERT OR REPLACE INTO documents (kind, tenant, id, value, version, before, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(document.kind, document.tenant, document.id, document.value),
            *(written.version, document.version, expires_at),
        ),
    )
    sweep(db, now)
    return written


def list_documents(
    db: Connection, kind: str, tenant: str, *, after: str | None, limit: int, oldest_first: bool, now: float
) -> list[Document]:
    beyond, order = (">", "ASC") if oldest_first else ("<", "DESC")
    rows = db.execute(
        f"SELECT id, value, version FROM documents WHERE kind = ? AND tenant = ? AND expires_at > ?"
        f" AND (? IS NULL OR id {beyond} ?) ORDER BY id {order} LIMIT ?",
        (kind, tenant, now, after, after, limit),
    )
    return [Document(kind, tenant, *row) for row in rows]


def delete(db: Connection, document: Document, now: float) -> bool:
    stored = get(db, document.kind, document.tenant, id=document.id, now=now)
    if stored is None:
        return False
    if stored.version != document.version:
        raise DocumentChanged(f"{document.kind} {document.id}")
    db.execute(
        "DELETE FROM documents WHERE kind = ? AND tenant = ? AND id = ?", (document.kind, document.tenant, document.id)
    )
    return True


def sweep(db: Connection, now: float) -> None:
    db.execute(
        "DELETE FROM documents WHERE (kind, tenant, id) IN"
        " (SELECT kind, tenant, id FROM documents WHERE expires_at <= ? LIMIT ?)",
        (now, SWEPT),
    )
