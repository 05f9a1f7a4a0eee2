"""The sweeper: every job that was accepted ends, also one that the broker has lost."""

from __future__ import annotations

import asyncio
import random

import structlog

from producer.catalog import Catalog
from producer.service import JobService
from shared.errors import IgniteError
from shared.job import QueueName, Tier

log = structlog.get_logger(__name__)


async def sweep(service: JobService, catalog: Catalog, every: float) -> None:
    """Runs for the life of the replica. Replicas do not agree who sweeps: a job that two of them mend runs once."""
    while True:
        await asyncio.sleep(every * random.uniform(0.5, 1.5))
        try:
            queues = [QueueName(model.id, tier) for model in await catalog.models() for tier in Tier]
        except IgniteError as error:
            log.warning("sweep.not_begun", error=error.message, next="sweeping again later")
            continue
        for queue in queues:
            await sweep_queue(service, queue, every)


async def sweep_queue(service: JobService, queue: QueueName, waited: float) -> None:
    """One that is in trouble holds up no other."""
    try:
        await service.sweep(queue, waited)
    except IgniteError as error:
        log.warning("sweep.broken_off", queue=str(queue), error=error.message, next="sweeping again later")
