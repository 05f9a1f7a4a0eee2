"""The delivery of a job that runs here. The broker may send it again meanwhile: all are settled."""

from __future__ import annotations

from functools import partial

import structlog

from shared.ports import Delivery
from worker.piggybacked import PiggybackedDelivery
from worker.retry import retry_while_unavailable

log = structlog.get_logger(__name__)


class HeldDelivery:
    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._settling: Delivery | None = None

    async def adopt(self, redelivery: Delivery) -> None:
        """Another delivery of the job: the broker lost the first one, or has two. One is kept."""
        if isinstance(redelivery, PiggybackedDelivery) and not isinstance(self._delivery, PiggybackedDelivery):
            await retry_while_unavailable(redelivery.ack)
            return
        log.info("delivery.adopted", job=redelivery.message.job.id)
        older, self._delivery = self._delivery, redelivery
        if older is not self._settling:
            await retry_while_unavailable(older.ack)

    async def let_go(self, *, after: float | None = None) -> None:
        """Settle the delivery, and any that is adopted meanwhile: forget it, or have it again `after` seconds."""
        while self._settling is not self._delivery:
            delivery = self._settling = self._delivery
            try:
                await retry_while_unavailable(delivery.ack if after is None else partial(delivery.retry, after))
            except BaseException:
                self._settling = None  # It is still to be settled.
                raise
