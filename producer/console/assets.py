"""Reads the console's files once and serves them from memory, so that a path can name nothing else on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

INDEX = "index.html"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file in memory. `etag` changes with its content."""

    body: bytes
    media_type: str
    etag: str


def read_assets() -> Mapping[str, Asset]:
    """Returns the console's files by their path below /console/."""
    return dict(assets_in(resources.files("producer.console") / "static", ""))


def assets_in(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            found += assets_in(entry, f"{path}/")
        elif (media_type := MEDIA_TYPES.get(f".{entry.name.rpartition('.')[2]}")) is not None:
            body = entry.read_bytes()
            found.append((path, Asset(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:24]}"')))
    return found
