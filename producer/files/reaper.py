"""Removes objects that no file's entry names any more: of files that have expired, of uploads that broke off, and of
batch runners that were overtaken.
"""

from __future__ import annotations

import asyncio
import random
import time

import structlog

from producer.files.catalog import Files
from producer.files.entry import owner_of
from producer.storage import Storage, StoredObject
from shared.errors import IgniteError

log = structlog.get_logger(__name__)

EVERY = 3600.0
GRACE = 3600.0
"""Seconds for which an object may be there before an entry names it."""

BATCH = 100


async def reap(files: Files, storage: Storage) -> None:
    """Runs for the life of the replica. Replicas do not agree who does it: what one has removed is gone."""
    while True:
        await asyncio.sleep(EVERY * random.uniform(0.5, 1.5))
        try:
            removed = await reap_once(files, storage, time.time() - GRACE)
        except IgniteError as error:
            log.warning("files.not_reaped", error=str(error), next="looking again later")
        else:
            log.debug("files.reaped", removed=removed)


async def reap_once(files: Files, storage: Storage, before: float) -> int:
    """Remove what was put before that moment (Unix time) and belongs to no file; how many objects."""
    found: list[str] = []
    async for each in storage.objects():
        if each.modified_at < before and not await belongs(files, each):
            found.append(each.key)
    for start in range(0, len(found), BATCH):
        await storage.delete(found[start : start + BATCH])
    return len(found)


async def belongs(files: Files, stored: StoredObject) -> bool:
    """Whether a file is made of it. What is not ours is not ours to remove."""
    owner = owner_of(stored.key)
    if owner is None:
        return True
    tenant, file_id = owner
    entry = await files.find(tenant, file_id)
    if entry is None:
        return False
    return any(part.key == stored.key for part in (await files.content(tenant, entry)).parts)
