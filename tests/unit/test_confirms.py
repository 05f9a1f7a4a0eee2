"""When a broker that has not confirmed yet is given up."""

import asyncio

import pytest
from aio_pika.exceptions import DeliveryError

from shared.backends.rabbitmq.confirms import Confirms, ConfirmTimeouts

SHORT = ConfirmTimeouts(silence=0.05, grace=0.02, total=60.0)


def confirm() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def begun(work: asyncio.Task[None]) -> None:
    await asyncio.wait([work], timeout=0)


async def test_a_silent_broker_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        await Confirms(SHORT).wait(confirm())


async def test_one_that_confirms_others_is_waited_for() -> None:
    confirms, slow = Confirms(SHORT), confirm()
    waiting = asyncio.create_task(confirms.wait(slow))
    ends = asyncio.get_running_loop().time() + 4 * (SHORT.silence + SHORT.grace)
    while asyncio.get_running_loop().time() < ends:
        confirms.answered_at = asyncio.get_running_loop().time()
        await begun(waiting)
    assert not waiting.done()
    slow.set_result(None)
    await waiting


async def test_a_refusal_is_a_word_too() -> None:
    confirms, refused = Confirms(SHORT), confirm()
    refused.set_exception(DeliveryError(None, None))
    with pytest.raises(DeliveryError):
        await confirms.wait(refused)
    assert confirms.answered_lately


async def test_one_that_confirms_all_but_this_message_is_not_waited_for_for_ever() -> None:
    confirms = Confirms(ConfirmTimeouts(silence=60.0, grace=1.0, total=0.05))
    with pytest.raises(TimeoutError):
        await confirms.wait(confirm())


async def test_a_process_that_got_no_time_looks_once_more() -> None:
    """What the broker has said is heard in the turn after the one in which the timer fires."""
    confirms, late = Confirms(ConfirmTimeouts(silence=0.0, grace=60.0, total=60.0)), confirm()
    waiting = asyncio.create_task(confirms.wait(late))
    for _ in range(3):
        await begun(waiting)
    late.set_result(None)
    await waiting
