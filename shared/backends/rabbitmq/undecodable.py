"""Keeps messages that could not be decoded in a queue for the operator, and reviews them one by one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, HeadersType
from aiormq.abc import DeliveredMessage

from shared.backends.rabbitmq.connection import Channel
from shared.backends.rabbitmq.publisher import Publisher, raw_message
from shared.backends.rabbitmq.topology import JOBS, UNDECODABLE
from shared.ports import Fate, Undecodable

FROM, WHY = "x-set-aside-from", "x-set-aside-why"


async def set_aside(publisher: Publisher, raw: DeliveredMessage, why: str) -> None:
    """Publishes a copy of `raw` with its queue and the reason. The caller still has to acknowledge `raw`."""
    headers = {**(raw.header.properties.headers or {}), FROM: raw.routing_key or "", WHY: why}
    await publisher.publish(
        raw_message("", copy_of(raw.body, headers, f"undecodable-{os.urandom(6).hex()}"), UNDECODABLE)
    )


async def review(publisher: Publisher, decide: Callable[[Undecodable], Fate], limit: int) -> Sequence[Undecodable]:
    """Reviews messages. Those that stay are published again at the end, not requeued: a quorum queue counts each
    requeue as a delivery, and drops messages with too many deliveries.
    """
    async with publisher.borrowed() as channel:
        return await review_on(channel, publisher, decide, limit=limit)


async def review_on(
    channel: Channel, publisher: Publisher, decide: Callable[[Undecodable], Fate], limit: int
) -> Sequence[Undecodable]:
    queue = await channel.declare_queue(UNDECODABLE, passive=True)
    seen: list[Undecodable] = []
    for _ in range(min(limit, queue.declaration_result.message_count or 0)):
        raw = await queue.get(fail=False)
        if raw is None:
            break
        found = decode(raw)
        seen.append(found)
        await apply(publisher, raw, found, fate=decide(found))
        await raw.ack()
    return seen


async def apply(publisher: Publisher, raw: AbstractIncomingMessage, found: Undecodable, fate: Fate) -> None:
    match fate:
        case "keep":
            await publisher.publish(
                raw_message("", copy_of(raw.body, raw.headers, found.id, at=raw.timestamp), UNDECODABLE)
            )
        case "replay":
            ours = {name: value for name, value in raw.headers.items() if name not in (FROM, WHY)}
            await publisher.publish(raw_message(JOBS, copy_of(raw.body, ours, found.id), found.queue))
        case "forget":
            pass


def copy_of(body: bytes, headers: HeadersType, message_id: str, at: object = None) -> aio_pika.Message:
    return aio_pika.Message(
        body,
        headers=headers,
        message_id=message_id,
        timestamp=time.time() if at is None else at,  # pyright: ignore[reportArgumentType]
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def decode(raw: AbstractIncomingMessage) -> Undecodable:
    return Undecodable(
        id=raw.message_id or "",
        queue=str(raw.headers.get(FROM, "")),
        at=raw.timestamp.timestamp() if raw.timestamp else 0.0,
        reason=str(raw.headers.get(WHY, "")),
        headers={name: str(value) for name, value in raw.headers.items() if name not in (FROM, WHY)},
        body=raw.body,
    )
