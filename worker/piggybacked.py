"""Runs a job under another job's delivery, because fairness puts it first (shared/fairness.py)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from shared.job import Job
from shared.ports import Delivery, Message


class PiggybackedDelivery:
    """A job without a delivery of its own. `host` is the delivery that stays unacknowledged while it runs.

    When the job ends or is released, the host's own job goes on waiting (`deliver_again`). The piggybacked job's own
    message stays in the queue, so a later delivery of it is harmless.
    """

    redelivered = False
    served = None

    def __init__(self, host: Delivery, job: Job) -> None:
        self.message = Message(job, None)
        self._host = host

    async def ack(self) -> None:
        await self._host.deliver_again(self.message.job.id)

    async def retry(self, after: float = 0.0) -> None:
        del after  # The store delays it.
        await self.ack()

    async def deliver_again(self, served: str) -> None:
        del served
        await self.ack()


@asynccontextmanager
async def expiring(job: Job, expire: Callable[[], Awaitable[object]]) -> AsyncGenerator[None]:
    """Calls `expire` if the job's deadline passes inside: the broker expires only messages that wait in its queues."""
    loop = asyncio.get_running_loop()
    expiries: list[asyncio.Future[object]] = []
    timer = loop.call_later(
        max(0.0, job.deadline_at - time.time()), lambda: expiries.append(asyncio.ensure_future(expire()))
    )
    try:
        yield
    finally:
        timer.cancel()
        await asyncio.gather(*expiries, return_exceptions=True)
