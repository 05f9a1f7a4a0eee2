"""Stores batches and changes them for clients. A batch in progress is written by its progress writer."""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from producer.batches.document import KIND, Batch
from producer.files.catalog import Content
from producer.files.entry import Part
from shared.errors import Conflict, InvalidRequest, NotFound, RateLimited
from shared.ports import FLEET, Document, DocumentChanged, Documents

OPEN = "batch-open"
"""Document kind of the index of open batches. The index belongs to the installation, not to a tenant."""

WINDOW = re.compile(r"([0-9]{1,6})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_WINDOW = 30 * 86400
PAGE = 500
FULL_RETRY = 60.0
"""Seconds after which a client with too many batches should try again."""


class BatchRepository:
    def __init__(self, documents: Documents, retention: float, most_open: int = 0) -> None:
        """`retention`: seconds for which a batch is kept after its deadline; `most_open`: limit of a tenant's open
        batches, 0 for no limit.
        """
        self._documents = documents
        self._retention = retention
        self._most_open = most_open
        self._counting = asyncio.Lock()
        self._coming: defaultdict[str, set[str]] = defaultdict(set)

    @asynccontextmanager
    async def room_for(self, batch: Batch) -> AsyncGenerator[None]:
        """Reserves room for a batch while the caller creates it. Batches that this process is creating count. Raises
        RateLimited at the tenant's limit.
        """
        if not self._most_open:
            yield
            return
        async with self._counting:
            coming = self._coming[batch.tenant]
            if len(coming | await self._open_of(batch.tenant)) >= self._most_open:
                raise RateLimited(
                    f"You have {self._most_open} open batches, which is the limit (tenant_batch_limit).",
                    retry_after=FULL_RETRY,
                )
            coming.add(batch.id)
        try:
            yield
        finally:
            coming.discard(batch.id)

    async def _open_of(self, tenant: str) -> set[str]:
        """Returns the ids of the tenant's open batches; stops reading when the limit is reached."""
        found, after = set[str](), None
        while len(found) < self._most_open:
            page = await self._documents.list(OPEN, FLEET, after=after, limit=PAGE)
            found.update(each.id for each in page if each.value.decode() == tenant)
            if len(page) < PAGE:
                break
            after = page[-1].id
        return found

    async def create(self, batch: Batch) -> None:
        """Writes the index entry of open batches, then the batch: readers drop entries without a batch."""
        await self._open(batch)
        await self.write(batch, 0)

    async def ensure(self, batch: Batch) -> Batch:
        """Returns the stored batch; creates it if it is missing. Idempotent, also concurrently."""
        found = await self.find(batch.tenant, batch.id)
        if found is None:
            with suppress(DocumentChanged):  # Another process created it.
                await self.create(batch)
            found = await self._get(batch.tenant, batch.id)
        if found[0].generation == 0:
            await self._open(batch)  # A runner may have dropped the entry before the batch was written.
        return found[0]

    async def _open(self, batch: Batch) -> None:
        pointer = Document(OPEN, FLEET, batch.id, value=batch.tenant.encode())
        with suppress(DocumentChanged):  # The entry exists.
            await self._documents.put(pointer, expires_in=self.life(batch))

    async def write(self, batch: Batch, version: int) -> int:
        """Writes the batch over `version`, and returns the new version. Raises DocumentChanged on a conflict."""
        document = Document(KIND, batch.tenant, batch.id, value=batch.model_dump_json().encode(), version=version)
        return (await self._documents.put(document, expires_in=self.life(batch))).version

    async def find(self, tenant: str, batch_id: str) -> tuple[Batch, int] | None:
        """Returns the batch and its version, or None."""
        found = await self._documents.get(KIND, tenant, batch_id)
        return None if found is None else (Batch.model_validate_json(found.value), found.version)

    async def get(self, tenant: str, batch_id: str) -> Batch:
        """Returns the batch. Raises NotFound."""
        return (await self._get(tenant, batch_id))[0]

    async def _get(self, tenant: str, batch_id: str) -> tuple[Batch, int]:
        found = await self.find(tenant, batch_id)
        if found is None:
            raise NotFound(f"No batch found with id '{batch_id}'.", param="batch_id")
        return found

    async def content(self, tenant: str, batch_id: str, file_id: str) -> Content:
        """Returns the content so far of a file that the batch writes."""
        found = await self.find(tenant, batch_id)
        if found is None:
            return Content((), lines=0)
        output = found[0].output_of(file_id)
        return Content([Part(key=each.key, size=each.size) for each in output.segments], lines=output.lines)

    async def list(self, tenant: str, *, after: str | None, limit: int) -> tuple[Sequence[Batch], bool]:
        """Returns a page, newest first, and whether there are more."""
        found = await self._documents.list(KIND, tenant, after=after, limit=limit + 1)
        return [Batch.model_validate_json(each.value) for each in found[:limit]], len(found) > limit

    async def cancel(self, tenant: str, batch_id: str) -> Batch:
        """Requests cancellation, and returns the batch. Idempotent. Raises NotFound, Conflict."""

        def cancelled(batch: Batch) -> Batch:
            if batch.over and batch.status != "cancelled":
                raise Conflict(f"Cannot cancel a batch with status '{batch.status}'.", code="batch_over")
            if batch.status not in ("validating", "in_progress"):
                return batch
            return batch.with_(status="cancelling", cancelling_at=time.time())

        return await self.change(tenant, batch_id, cancelled)

    async def change(self, tenant: str, batch_id: str, step: Callable[[Batch], Batch]) -> Batch:
        """Writes the result of `step` on the stored batch; repeats it after a conflict. Raises NotFound."""
        while True:
            before, version = await self._get(tenant, batch_id)
            after = step(before)
            if after is before:
                return before
            try:
                await self.write(after, version)
            except DocumentChanged:
                continue
            return after

    async def opened(self, limit: int) -> Sequence[tuple[str, str]]:
        """Returns the tenant and id of open batches, oldest first."""
        found = await self._documents.list(OPEN, FLEET, limit=limit, oldest_first=True)
        return [(each.value.decode(), each.id) for each in found]

    async def close(self, batch_id: str) -> None:
        """Removes the batch from the index of open batches."""
        found = await self._documents.get(OPEN, FLEET, batch_id)
        if found is not None:
            await self._documents.delete(found)

    def life(self, batch: Batch) -> float:
        """Returns the seconds for which the batch is kept from now on."""
        return max(1.0, batch.expires_at - time.time()) + self._retention


def window_of(text: object) -> float:
    """Returns the seconds of a `completion_window`, such as OpenAI's `24h`. Raises InvalidRequest."""
    found = WINDOW.fullmatch(text) if isinstance(text, str) else None
    seconds = int(found[1]) * SECONDS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_WINDOW:
        raise InvalidRequest(
            "Invalid value for 'completion_window': expected '24h', or another number of s, m, h or d up to 30 days.",
            param="completion_window",
        )
    return float(seconds)
