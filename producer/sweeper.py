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
            await sweep_all(service, catalog, every)
        except IgniteError as error:
            log.warning("sweep.broken_off", error=error.message, next="sweeping again later")


async def sweep_all(service: JobService, catalog: Catalog, waited: float) -> None:
    for model in await catalog.models():
        for tier in Tier:
            await service.sweep(QueueName(model.id, tier), waited)
