"""A job that is run under another's delivery, because its tenant's turn has come: see shared/fairness.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from shared.job import Job
from shared.ports import Delivery, Message


class PiggybackedDelivery:
    """`carrier`: the delivery that stays unacknowledged meanwhile. However the carried job ends or is given up, the
    carrier's own job has its next turn; whoever runs the carried one again, its own message is still in the queue.
    """

    redelivered = False
    served = None

    def __init__(self, carrier: Delivery, job: Job) -> None:
        self.message = Message(job, None)
        self._carrier = carrier

    async def ack(self) -> None:
        await self._carrier.wait_on(self.message.job.id)

    async def retry(self, after: float = 0.0) -> None:
        del after  # The store keeps it back for as long.
        await self.ack()

    async def reject(self) -> None:
        await self.ack()

    async def wait_on(self, served: str) -> None:
        del served
        await self.ack()


@asynccontextmanager
async def in_time(job: Job, expire: Callable[[], Awaitable[object]]) -> AsyncGenerator[None]:
    """Call `expire` should the job's deadline pass inside: a broker expires only what waits in its queues."""
    loop = asyncio.get_running_loop()
    expiring: list[asyncio.Future[object]] = []
    timer = loop.call_later(
        max(0.0, job.deadline_at - time.time()), lambda: expiring.append(asyncio.ensure_future(expire()))
    )
    try:
        yield
    finally:
        timer.cancel()
        await asyncio.gather(*expiring, return_exceptions=True)
