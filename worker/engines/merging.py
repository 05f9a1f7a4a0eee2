"""Merges several streams into one, in the order in which items arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Yields each item with its stream's index. The first error, or closing this stream, closes all of them."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as stream:
            async for item in stream:  # No task per item.
                yield 0, item
        return
    waiting = {_next(stream): index for index, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index = waiting.pop(task)
                for item in task.result():
                    waiting[_next(streams[index])] = index
                    yield index, item
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def limited(stream: AsyncGenerator[T, None], permits: asyncio.Semaphore) -> AsyncGenerator[T, None]:
    """Yields the stream's items. Starts when a permit is free, and releases it at the end."""
    async with permits, aclosing(stream) as items:
        async for item in items:
            yield item


def _next(stream: AsyncGenerator[T, None]) -> asyncio.Task[list[T]]:
    return asyncio.create_task(_item(stream))


async def _item(stream: AsyncGenerator[T, None]) -> list[T]:
    """Returns the stream's next item in a list, empty at its end."""
    async for item in stream:
        return [item]
    return []
