"""Assigns batches to replicas by leases. Every replica searches for batches without a lease and takes one on each.

A lease is a document that expires by the store's clock unless it is renewed. It avoids duplicate work; correctness does
not depend on it: if two replicas run one batch, ProgressWriter lets only the later one write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from producer.batches.execution.progress_writer import Overtaken, ProgressWriter
from producer.batches.repository import BatchRepository
from shared.aio import first
from shared.errors import BackendUnavailable, IgniteError
from shared.ports import FLEET, Document, DocumentChanged, Documents

log = structlog.get_logger(__name__)

LEASE = "batch-lease"
SEARCH_EVERY = 2.0
"""Seconds between searches for batches without a lease."""

MOST = 1000
"""Open batches read per search, oldest first."""

NEVER_MADE = 60.0
"""Seconds after which an index entry without a batch is dropped: the batch was never written."""

AGAIN_AFTER = 2.0
"""Seconds until an interrupted batch is run again."""


class LeaseLost(Exception):
    """Another replica holds the lease."""


class Lease:
    """A lease of this replica. It is lost when another replica writes its document."""

    def __init__(self, documents: Documents, document: Document, seconds: float) -> None:
        self._documents = documents
        self._document = document
        self._seconds = seconds

    async def renew(self) -> None:
        """Renews the lease until cancelled; retries while the store is unavailable. Raises LeaseLost."""
        while True:
            await asyncio.sleep(self._seconds / 3)
            with suppress(BackendUnavailable):
                try:
                    fresh = replace(self._document, value=str(time.time()).encode())
                    self._document = await self._documents.put(fresh, expires_in=self._seconds)
                except DocumentChanged:
                    raise LeaseLost from None

    async def release(self) -> None:
        with suppress(DocumentChanged, BackendUnavailable):
            await self._documents.delete(self._document)


class BatchLeaseManager:
    """Runs each batch that this replica has leased, in a task of its own."""

    def __init__(
        self,
        documents: Documents,
        batches: BatchRepository,
        work: Callable[[ProgressWriter], Awaitable[None]],
        lease: float,
    ) -> None:
        """`lease` in seconds: how long a batch waits for its next runner after a replica died."""
        self._documents = documents
        self._batches = batches
        self._work = work
        self._lease = lease
        self._found = asyncio.Event()

    def wake(self) -> None:
        """Starts a search at once, for a new batch."""
        self._found.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await self._search(group)
                try:
                    async with asyncio.timeout(SEARCH_EVERY):
                        await self._found.wait()
                except TimeoutError:
                    continue
                self._found.clear()

    async def _search(self, group: asyncio.TaskGroup) -> None:
        try:
            leased = {lease.id for lease in await self._documents.list(LEASE, FLEET, limit=MOST)}
            for tenant, batch_id in await self._batches.opened(MOST):
                if batch_id not in leased and (lease := await self._take(batch_id)) is not None:
                    group.create_task(self._hold(lease, tenant), name=f"runner {batch_id}")
        except IgniteError as error:
            log.warning("batches.search_failed", error=str(error), next="searching again")

    async def _take(self, batch_id: str) -> Document | None:
        try:
            lease = Document(LEASE, FLEET, batch_id, value=str(time.time()).encode())
            return await self._documents.put(lease, expires_in=self._lease)
        except DocumentChanged:
            return None

    async def _hold(self, lease: Document, tenant: str) -> None:
        """Runs the batch while the lease is held, and releases the lease, also when this replica stops."""
        held = Lease(self._documents, lease, self._lease)
        try:
            await first(self._run(tenant, lease.id), held.renew())
        except (Overtaken, LeaseLost):
            log.warning("batch.overtaken", batch=lease.id, next="another replica runs it")
        except IgniteError as error:
            log.warning("batch.interrupted", batch=lease.id, error=str(error), next="running it again soon")
            await asyncio.sleep(AGAIN_AFTER)
        except Exception:
            log.exception("batch.crashed", batch=lease.id, next="running it again soon")
            await asyncio.sleep(AGAIN_AFTER)
        finally:
            await held.release()

    async def _run(self, tenant: str, batch_id: str) -> None:
        progress_writer = await ProgressWriter.take_over(self._batches, tenant, batch_id)
        if progress_writer is None:
            if age_of(batch_id) > NEVER_MADE:
                await self._batches.close(batch_id)
            return
        log.info(
            "batch.taken",
            batch=batch_id,
            generation=progress_writer.batch.generation,
            status=progress_writer.batch.status,
        )
        await self._work(progress_writer)


def age_of(batch_id: str) -> float:
    """Returns the seconds since the batch's id was made."""
    return time.time() - int(batch_id.removeprefix("batch_")[:12], 16) / 1000
