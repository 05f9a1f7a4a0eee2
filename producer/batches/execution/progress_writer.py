"""The pen of a batch's runner. It writes only while its holder is the runner; whoever was overtaken hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from producer.batches.document import Batch
from producer.batches.repository import BatchRepository
from shared.errors import BackendUnavailable
from shared.ports import DocumentChanged

log = structlog.get_logger(__name__)

TRY_AGAIN = 0.5


class Overtaken(Exception):
    """Another replica runs this batch now, or it is gone."""


class ProgressWriter:
    def __init__(self, batches: BatchRepository, batch: Batch, version: int) -> None:
        self._batches = batches
        self._version = version
        self.batch = batch

    @classmethod
    async def take_over(cls, batches: BatchRepository, tenant: str, batch_id: str) -> ProgressWriter | None:
        """Become the runner: from here on no earlier one can write. None where there is no such batch."""
        while True:
            found = await batches.find(tenant, batch_id)
            if found is None:
                return None
            batch, version = found
            taken = batch.with_(generation=batch.generation + 1)
            try:
                return cls(batches, taken, await batches.write(taken, version))
            except DocumentChanged:
                continue

    async def commit(self, change: Callable[[Batch], Batch]) -> Batch:
        """Write `change` of the batch as it is, which a client may have changed as well. Insists while the store is
        away. Raises Overtaken.
        """
        while True:
            before = self.batch
            after = change(before).with_(commits=before.commits + 1)
            try:
                self._version = await self._write(after)
            except DocumentChanged:
                if await self._refresh(before) == after.commits:
                    return self.batch  # It was written, the answer got lost, and then a client wrote.
                continue
            self.batch = after
            return after

    async def look(self) -> Batch:
        """The batch as it is now. Raises Overtaken, BackendUnavailable."""
        await self._refresh(self.batch)
        return self.batch

    async def _write(self, batch: Batch) -> int:
        """Until the store answers: the same bytes over the same version, so that a second time does no harm."""
        while True:
            try:
                return await self._batches.write(batch, self._version)
            except BackendUnavailable as error:
                log.warning("batch.not_written", batch=batch.id, error=str(error), next="trying again")
                await asyncio.sleep(TRY_AGAIN)

    async def _refresh(self, mine: Batch) -> int:
        """Read it again; how often its runner has written it."""
        found = await self._batches.find(mine.tenant, mine.id)
        if found is None or found[0].generation != mine.generation:
            raise Overtaken(mine.id)
        self.batch, self._version = found
        return self.batch.commits
