"""Ends the jobs whose messages became dead letters, once each, with the reason."""

from __future__ import annotations

import time

import structlog

from producer.jobs.service import JobService
from shared.errors import AttemptsExhausted
from shared.job import JobStatus
from shared.outages import Outage
from shared.ports import Backend, Consumer
from shared.retry import retry_while_unavailable

log = structlog.get_logger(__name__)

RECONNECT = 2.0


async def consume_dead_letters(backend: Backend, service: JobService) -> None:
    """Consumes dead letters until cancelled, and reconnects when the broker is unavailable."""

    outage = Outage()

    async def consume() -> None:
        async with backend.queue.dead_letters() as consumer:
            if (seconds := outage.ends()) is not None:
                log.info("dead_letters.back", after=seconds)
            await end_dead_jobs(consumer, service)

    def report(error: Exception, pause: float) -> None:
        if outage.begins():
            log.warning("dead_letters.unavailable", error=str(error), next=f"trying again in {pause:.0f} s")

    await retry_while_unavailable(consume, pauses=(RECONNECT, RECONNECT), report=report)


async def end_dead_jobs(consumer: Consumer, service: JobService) -> None:
    while True:
        delivery = await consumer.next()
        job_id = delivery.message.job.id
        if delivery.message.job.deadline_at <= time.time():
            await service.expire(job_id)
        else:
            log.error("job.dead", job=job_id, next="the job has failed")
            reason = AttemptsExhausted("The job was delivered too often without an answer; it is not tried again.")
            await service.end_unclaimed(job_id, JobStatus.FAILED, reason)
        await delivery.ack()
