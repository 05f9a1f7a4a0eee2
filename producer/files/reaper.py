"""Deletes objects that no file entry names: those of expired files, interrupted uploads and replaced batch runners."""

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
"""Seconds for which an object without an entry is kept: its entry is written later."""

BATCH = 100


async def reap(files: Files, storage: Storage) -> None:
    """Deletes orphaned objects until cancelled. Replicas need no coordination: deletion is idempotent."""
    while True:
        await asyncio.sleep(EVERY * random.uniform(0.5, 1.5))
        try:
            removed = await reap_once(files, storage, time.time() - GRACE)
        except IgniteError as error:
            log.warning("files.not_reaped", error=str(error), next="trying again later")
        else:
            log.debug("files.reaped", removed=removed)


async def reap_once(files: Files, storage: Storage, before: float) -> int:
    """Deletes objects without a file that are older than that Unix time; returns their number."""
    found: list[str] = []
    async for each in storage.objects():
        if each.modified_at < before and not await belongs(files, each):
            found.append(each.key)
    for start in range(0, len(found), BATCH):
        await storage.delete(found[start : start + BATCH])
    return len(found)


async def belongs(files: Files, stored: StoredObject) -> bool:
    """Whether a file uses the object. A foreign object counts as used, so it is never deleted."""
    owner = owner_of(stored.key)
    if owner is None:
        return True
    tenant, file_id = owner
    entry = await files.find(tenant, file_id)
    if entry is None:
        return False
    return any(part.key == stored.key for part in (await files.content(tenant, entry)).parts)
