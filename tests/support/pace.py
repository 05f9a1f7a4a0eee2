"""Sleeps where a test is about time itself: how long a fault lasts, or how long a client waits."""

import asyncio


async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)
