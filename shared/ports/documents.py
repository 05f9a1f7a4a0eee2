"""Records of other things than jobs, each changed as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

FLEET = ""
"""The tenant of documents that belong to the installation itself."""


@dataclass(frozen=True, slots=True)
class Document:
    """A small JSON document that is neither a job nor part of one: a key, a file's entry, a batch. `version` grows
    with every write, also where an id is used again; one that is not written yet has version 0.
    """

    kind: str
    tenant: str
    id: str
    value: bytes
    version: int = 0


class DocumentChanged(Exception):
    """Somebody else wrote, made or deleted the document since it was read; nothing was written."""


class Documents(Protocol):
    """Small documents by kind, tenant and id. They are as durable as the jobs' records."""

    async def put(self, document: Document, *, expires_in: float) -> Document:
        """Write `document` for `expires_in` seconds if nobody has written it since it was read: the stored version must
        be `document.version` (0: there must be none). The document with its new version. Raises DocumentChanged.
        """
        ...

    async def get(self, kind: str, tenant: str, id: str) -> Document | None: ...

    async def list(
        self, kind: str, tenant: str, *, after: str | None = None, limit: int = 100, oldest_first: bool = False
    ) -> Sequence[Document]:
        """In the order of their ids, greatest first unless `oldest_first`; those that come behind the id `after`."""
        ...

    async def delete(self, document: Document) -> bool:
        """Forget it if it still has this version. False where it is gone already. Raises DocumentChanged."""
        ...
