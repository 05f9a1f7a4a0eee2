"""The delivery of a job that runs here. The broker may deliver the job again meanwhile: each delivery is resolved."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from shared.ports import Delivery
from shared.retry import retry_while_unavailable
from worker.piggybacked import PiggybackedDelivery

log = structlog.get_logger(__name__)


class CurrentDelivery:
    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._resolving: Delivery | None = None

    async def adopt(self, redelivery: Delivery) -> None:
        """Takes another delivery of the job, where the broker lost the first one or has two. Acks the older one."""
        if isinstance(redelivery, PiggybackedDelivery) and not isinstance(self._delivery, PiggybackedDelivery):
            await retry_while_unavailable(redelivery.ack)
            return
        log.info("delivery.adopted", job=redelivery.message.job.id)
        older, self._delivery = self._delivery, redelivery
        if older is not self._resolving:
            await retry_while_unavailable(older.ack)

    async def ack(self) -> None:
        """Acks the delivery, and any that is adopted meanwhile."""
        await self._resolve(lambda delivery: delivery.ack())

    async def retry(self, after: float) -> None:
        """Requeues the delivery, and any that is adopted meanwhile, for `after` seconds from now."""
        await self._resolve(lambda delivery: delivery.retry(after))

    async def _resolve(self, step: Callable[[Delivery], Awaitable[None]]) -> None:
        while self._resolving is not self._delivery:
            delivery = self._resolving = self._delivery
            try:
                await retry_while_unavailable(partial(step, delivery))
            except BaseException:
                self._resolving = None  # It is still unresolved.
                raise
