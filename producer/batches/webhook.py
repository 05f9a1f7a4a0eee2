"""Sends the event of a batch's end to its webhook, at least once, with retries for a day. The runner keeps the batch's
lease until then, so after a crash the next runner sends the event again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time

import orjson
import structlog

from producer.batches.document import Batch
from producer.http.serializers import whole
from producer.webhooks.sender import GONE, Event, accepted, open_sender, pause
from producer.webhooks.target import host_of
from shared.settings import Settings

log = structlog.get_logger(__name__)


def event_of(batch: Batch) -> Event:
    id = f"evt_{hashlib.sha256(batch.id.encode()).hexdigest()[:32]}"
    kind, data = f"batch.{batch.status}", {"id": batch.id, "expected_finish_at": whole(batch.expected_finish_at)}
    return Event(
        id,
        orjson.dumps({"id": id, "object": "event", "type": kind, "created_at": int(batch.ended_at or 0), "data": data}),
    )


async def send_webhook(batch: Batch, settings: Settings) -> None:
    """Sends the event; returns when the receiver has accepted or refused it, or after the last try."""
    url, secret = batch.webhook_url, settings.webhook_secret
    if url is None or secret is None:
        return
    event = event_of(batch)
    async with open_sender(secret, private_allowed=settings.webhooks_may_be_private) as sender:
        while not accepted(answer := await sender.send(url, event)) and answer != GONE:
            again_in = pause(time.time() - (batch.ended_at or 0))
            host = host_of(url)
            if again_in is None:
                log.warning("webhook.failed", batch=batch.id, host=host, answer=answer, next="not sent again")
                return
            log.warning(
                "webhook.failed", batch=batch.id, host=host, answer=answer, next=f"sending it again in {again_in:.0f} s"
            )
            await asyncio.sleep(again_in)
