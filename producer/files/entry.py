"""The entry of a file: its metadata and the storage keys of its bytes."""

from __future__ import annotations

import os
import time
from typing import Any
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict

KIND = "file"
UPLOADED = "content"
"""The last part of an upload's key. An upload is one object."""


class Part(BaseModel):
    """An object that holds some of a file's bytes."""

    model_config = ConfigDict(frozen=True)

    key: str
    size: int


class FileEntry(BaseModel):
    """Times are Unix seconds. A file's bytes are those of its parts, one after another; `growing`: the batch that still
    writes it and knows its parts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    filename: str
    purpose: str
    created_at: float
    expires_at: float
    parts: tuple[Part, ...] = ()
    growing: str | None = None

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


def new_id(prefix: str, now: float | None = None) -> str:
    """Ids sort by age: 48 bits of milliseconds, then 80 random ones."""
    return f"{prefix}{int((time.time() if now is None else now) * 1000):012x}{os.urandom(10).hex()}"


def new_file_id() -> str:
    return new_id("file-")


def object_key(tenant: str, file_id: str, name: str) -> str:
    """Returns the key of an object of a file. The prefix `t=` keeps a tenant's name from being special to a file
    system.
    """
    return f"t={quote(tenant, safe='')}/{file_id}/{name}"


def owner_of(key: str) -> tuple[str, str] | None:
    """Returns the tenant and file id in an object's key, None for a foreign object."""
    names = key.split("/")
    if len(names) != 3 or not names[0].startswith("t="):
        return None
    return unquote(names[0].removeprefix("t=")), names[1]


def file_object(entry: FileEntry, *, size: int | None = None) -> dict[str, Any]:
    """Returns OpenAI's `file` object. `size`: bytes of a file that is still growing."""
    return {
        "id": entry.id,
        "object": "file",
        "bytes": entry.size if size is None else size,
        "created_at": int(entry.created_at),
        "expires_at": int(entry.expires_at),
        "filename": entry.filename,
        "purpose": entry.purpose,
        "status": "processed" if entry.growing is None else "uploaded",
        "status_details": None,
    }
