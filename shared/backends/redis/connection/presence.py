"""Who is there, by their subscriptions: a channel is heard for as long as its process lives and is connected."""

from __future__ import annotations

from collections.abc import Sequence

from shared.backends.redis.connection.driver import Pipeline

RETURNS_WITHIN = 3
"""Seconds in which everybody who lives has subscribed again after the store was restarted."""


async def anybody_hears(redis: Pipeline, *channels: str) -> bool:
    """Whether one of the channels has a subscriber, or the store is so young that the living may not be back yet."""
    return await redis.hearers(*channels) > 0 or await redis.settled_for() < RETURNS_WITHIN


async def who_hears(redis: Pipeline, channels: Sequence[str]) -> Sequence[bool]:
    """The same of each channel."""
    heard = await redis.heard(channels)
    if all(heard) or await redis.settled_for() >= RETURNS_WITHIN:
        return heard
    return [True] * len(channels)
