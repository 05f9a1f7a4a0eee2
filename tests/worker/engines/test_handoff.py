"""From threads to the loop: everything, in order, and never a silence without an end."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest

from shared.errors import EngineError
from worker.engines.handoff import Handoff


async def test_every_item_arrives_in_its_threads_order() -> None:
    handoff: Handoff[tuple[int, int]] = Handoff(5)
    received: dict[int, list[int]] = {thread: [] for thread in range(4)}

    def produce(thread: int) -> None:
        for number in range(500):
            handoff.put((thread, number))

    with ThreadPoolExecutor(4) as threads:
        for thread in received:
            threads.submit(produce, thread)
        async with aclosing(aiter(handoff)) as items:
            async for thread, number in items:
                received[thread].append(number)
                if sum(map(len, received.values())) == 2000:
                    break
    assert all(numbers == list(range(500)) for numbers in received.values())


async def test_silence_ends_in_an_error() -> None:
    handoff: Handoff[int] = Handoff(0.05)
    handoff.put(1)
    async with asyncio.timeout(60), aclosing(aiter(handoff)) as items:
        assert await anext(items) == 1
        with pytest.raises(EngineError, match=r"0\.05 seconds"):
            await anext(items)


def test_a_thread_outlives_the_loop_unharmed() -> None:
    async def make() -> Handoff[int]:
        return Handoff(5)

    asyncio.run(make()).put(1)
