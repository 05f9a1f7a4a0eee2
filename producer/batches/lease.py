"""Which replica runs which batch. Every replica looks for batches that nobody runs, and takes a lease on each it finds.

A lease is a document that expires by the store's clock unless it is written again. It only keeps replicas from running
into each other: should two run one batch all the same, the progress_writer lets but the later one write.
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
LOOK_EVERY = 2.0
"""Seconds between searches for batches that nobody runs."""

MOST = 1000
"""BatchRepository that are looked at, the oldest ones."""

NEVER_MADE = 60.0
"""Seconds after which a batch that is named as open and is not there was never made."""

AGAIN_AFTER = 2.0
"""Seconds until a batch is run again that could not be run on."""


class LeaseLost(Exception):
    """Another replica has it."""


class Lease:
    """A document of ours, while nobody else has written it."""

    def __init__(self, documents: Documents, document: Document, seconds: float) -> None:
        self._documents = documents
        self._document = document
        self._seconds = seconds

    async def renew(self) -> None:
        """Hold it for good; a store that is away is asked again. Raises LeaseLost."""
        while True:
            await asyncio.sleep(self._seconds / 3)
            with suppress(BackendUnavailable):
                try:
                    fresh = replace(self._document, value=str(time.time()).encode())
                    self._document = await self._documents.put(fresh, expires_in=self._seconds)
                except DocumentChanged:
                    raise LeaseLost from None

    async def give_back(self) -> None:
        with suppress(DocumentChanged, BackendUnavailable):
            await self._documents.delete(self._document)


class BatchLeaseManager:
    """Runs batches, each in a task; `run` is for the life of the replica."""

    def __init__(
        self,
        documents: Documents,
        batches: BatchRepository,
        work: Callable[[ProgressWriter], Awaitable[None]],
        lease: float,
    ) -> None:
        """`lease` in seconds: how long a batch whose runner has died waits for the next one."""
        self._documents = documents
        self._batches = batches
        self._work = work
        self._lease = lease
        self._found = asyncio.Event()

    def nudge(self) -> None:
        """There is a new batch."""
        self._found.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await self._look(group)
                try:
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._found.wait()
                except TimeoutError:
                    continue
                self._found.clear()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        try:
            leased = {lease.id for lease in await self._documents.list(LEASE, FLEET, limit=MOST)}
            for tenant, batch_id in await self._batches.opened(MOST):
                if batch_id not in leased and (lease := await self._take(batch_id)) is not None:
                    group.create_task(self._hold(lease, tenant), name=f"runner {batch_id}")
        except IgniteError as error:
            log.warning("batches.not_looked_for", error=str(error), next="looking again")

    async def _take(self, batch_id: str) -> Document | None:
        try:
            lease = Document(LEASE, FLEET, batch_id, value=str(time.time()).encode())
            return await self._documents.put(lease, expires_in=self._lease)
        except DocumentChanged:
            return None

    async def _hold(self, lease: Document, tenant: str) -> None:
        """Run the batch while the lease is held, and give it back: also when this replica stops."""
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
            await held.give_back()

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
    """Seconds since the id was made."""
    return time.time() - int(batch_id.removeprefix("batch_")[:12], 16) / 1000
