"""Writes a batch's progress. Fenced: a runner that was replaced by another one gets `Overtaken`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog

from producer.batches.document import Batch
from producer.batches.repository import BatchRepository
from shared.ports import DocumentChanged
from shared.retry import retry_while_unavailable

log = structlog.get_logger(__name__)

TRY_AGAIN = 0.5


class Overtaken(Exception):
    """Another replica runs this batch now, or the batch was removed."""


class ProgressWriter:
    def __init__(self, batches: BatchRepository, batch: Batch, version: int) -> None:
        self._batches = batches
        self._version = version
        self.batch = batch

    @classmethod
    async def take_over(cls, batches: BatchRepository, tenant: str, batch_id: str) -> ProgressWriter | None:
        """Makes the caller the batch's runner: earlier runners cannot write any more. None if the batch is missing."""
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
        """Applies `change` to the current batch, which a client may have changed too, and writes it. Retries while the
        store is unavailable. Raises Overtaken.
        """
        while True:
            before = self.batch
            after = change(before).with_(commits=before.commits + 1)
            try:
                self._version = await self._write(after)
            except DocumentChanged:
                if await self._reload(before) == after.commits:
                    return self.batch  # The write succeeded, its answer was lost, and a client wrote afterwards.
                continue
            self.batch = after
            return after

    async def refresh(self) -> Batch:
        """Reads the batch again, and returns it. Raises Overtaken, BackendUnavailable."""
        await self._reload(self.batch)
        return self.batch

    async def _write(self, batch: Batch) -> int:
        """Writes until the store answers. Idempotent: the same bytes over the same version."""

        def report(error: Exception, _: float) -> None:
            log.warning("batch.not_written", batch=batch.id, error=str(error), next="trying again")

        write = partial(self._batches.write, batch, self._version)
        return await retry_while_unavailable(write, pauses=(TRY_AGAIN, TRY_AGAIN), report=report)

    async def _reload(self, mine: Batch) -> int:
        """Reads the batch again; returns its number of commits. Raises Overtaken."""
        found = await self._batches.find(mine.tenant, mine.id)
        if found is None or found[0].generation != mine.generation:
            raise Overtaken(mine.id)
        self.batch, self._version = found
        return self.batch.commits
