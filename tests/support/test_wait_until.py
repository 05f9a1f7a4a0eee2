import asyncio
import itertools

import pytest

from tests.support.wait_until import wait_until


async def test_answers_the_first_truthy_value() -> None:
    counting = itertools.count()

    assert await wait_until(lambda: next(counting) * 10) == 10


async def test_asks_asynchronous_predicates_too() -> None:
    happened = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, happened.set)

    assert await wait_until(happened.wait) is True


async def test_says_what_was_awaited_and_what_was_seen() -> None:
    with pytest.raises(TimeoutError, match=r"waited 0\.02 s for three jobs; last seen: \['one'\]"):
        await wait_until(lambda: False, "three jobs", within=0.02, seen=lambda: ["one"])


async def test_a_failed_assertion_means_not_yet() -> None:
    numbers = itertools.count()

    def at_least_two() -> bool:
        assert next(numbers) >= 2
        return True

    assert await wait_until(at_least_two)


async def test_without_a_name_the_message_quotes_the_predicate() -> None:
    with pytest.raises(TimeoutError, match="never_true"):
        never_true = 0
        await wait_until(lambda: never_true, within=0)
