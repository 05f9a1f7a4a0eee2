"""Time where time itself is meant: how long a fault lasts, how long a client thinks."""

import asyncio


async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)
