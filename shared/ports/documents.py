"""The interface of the store of small documents: API keys, files' entries, batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

FLEET = ""
"""The tenant of documents that belong to the installation itself."""


@dataclass(frozen=True, slots=True)
class Document:
    """A small JSON document that is not part of a job: a key, a file's entry, a batch. `version` grows with every
    write, even after the document was deleted and created again. It is 0 before the first write.
    """

    kind: str
    tenant: str
    id: str
    value: bytes
    version: int = 0


class DocumentChanged(Exception):
    """The document was created, written or deleted since it was read. Nothing was written."""


class Documents(Protocol):
    """Stores small documents by kind, tenant and id, as durably as the jobs' records."""

    async def put(self, document: Document, *, expires_in: float) -> Document:
        """Writes `document` for `expires_in` seconds, and returns it with its new version. The stored version must be
        `document.version` (0: no document may be stored). Raises DocumentChanged.
        """
        ...

    async def get(self, kind: str, tenant: str, id: str) -> Document | None: ...

    async def list(
        self, kind: str, tenant: str, *, after: str | None = None, limit: int = 100, oldest_first: bool = False
    ) -> Sequence[Document]:
        """Returns documents in descending order of their ids, or ascending with `oldest_first`. Starts behind the id
        `after`.
        """
        ...

    async def delete(self, document: Document) -> bool:
        """Deletes the document if the stored version is still this one. Returns False if none is stored. Raises
        DocumentChanged.
        """
        ...
