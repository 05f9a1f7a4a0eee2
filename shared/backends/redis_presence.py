"""Who is there, by their subscriptions: a channel is heard for as long as its process lives and is connected."""

from __future__ import annotations

from shared.backends.redis import Pipeline

RETURNS_WITHIN = 3
"""Seconds in which everybody who lives has subscribed again after the store was restarted."""


async def anybody_hears(redis: Pipeline, *channels: str) -> bool:
    """Whether one of the channels has a subscriber, or the store is so young that the living may not be back yet."""
    heard = await redis.command("PUBSUB", "NUMSUB", *channels)
    return any(heard[1::2]) or uptime(await redis.command("INFO", "server")) < RETURNS_WITHIN


def uptime(info: bytes) -> int:
    """Seconds, from INFO's answer."""
    fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return int(fields["uptime_in_seconds"])
