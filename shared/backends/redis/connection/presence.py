"""Decides whether processes live: each subscribes to a channel while it lives and is connected to Redis."""

from __future__ import annotations

from collections.abc import Sequence

from shared.backends.redis.connection.pipeline import Pipeline

RETURNS_WITHIN = 3
"""Seconds within which every living process has subscribed again after Redis was restarted."""


async def any_subscribed(redis: Pipeline, *channels: str) -> bool:
    """Whether one of the channels has a subscriber. Also true for RETURNS_WITHIN after a restart of Redis, because
    living processes may not have subscribed again yet.
    """
    return await redis.count_subscribers(*channels) > 0 or await redis.stable_for() < RETURNS_WITHIN


async def subscribed_each(redis: Pipeline, channels: Sequence[str]) -> Sequence[bool]:
    """Returns the same for each channel."""
    subscribed = await redis.have_subscribers(channels)
    if all(subscribed) or await redis.stable_for() >= RETURNS_WITHIN:
        return subscribed
    return [True] * len(channels)
