"""Merged streams are complete, and all of them are closed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from shared.errors import EngineError
from tests.support.leak_check import no_leaks
from worker.engines.merging import limited, merged


class Streams:
    def __init__(self) -> None:
        self.closed = 0

    async def count(self, until: int, then: Exception | None = None) -> AsyncGenerator[int, None]:
        try:
            for number in range(until):
                await asyncio.sleep(0)
                yield number
            if then is not None:
                raise then
        finally:
            self.closed += 1

    async def silent(self) -> AsyncGenerator[int, None]:
        try:
            await asyncio.Event().wait()
            yield 0
        finally:
            self.closed += 1


async def test_items_keep_the_order_of_their_stream() -> None:
    streams = Streams()
    items = [item async for item in merged([streams.count(3), streams.count(0), streams.count(5)])]
    assert [number for index, number in items if index == 0] == [0, 1, 2]
    assert [number for index, number in items if index == 2] == [0, 1, 2, 3, 4]
    assert len(items) == 8
    assert streams.closed == 3


async def test_an_error_closes_all_streams() -> None:
    streams = Streams()
    async with no_leaks():
        with pytest.raises(EngineError, match="broke"):
            async for _ in merged([streams.count(2, EngineError("broke")), streams.silent()]):
                pass
    assert streams.closed == 2


async def test_closing_early_closes_all_streams() -> None:
    streams = Streams()
    async with no_leaks(), aclosing(merged([streams.count(5), streams.silent()])) as items:
        await anext(items)
    assert streams.closed == 2


async def test_no_more_streams_run_than_there_are_permits() -> None:
    permits, streams = asyncio.Semaphore(2), Streams()
    running = merged([limited(streams.count(3), permits) for _ in range(5)])
    begun: list[int] = []
    async with aclosing(running) as items:
        async for index, _ in items:
            if index not in begun:
                begun.append(index)
            assert len(begun) - streams.closed <= 2
    assert len(begun) == streams.closed == 5
    assert not permits.locked()
