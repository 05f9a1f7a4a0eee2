"""JobQueue, Consumer and Delivery: every sentence of their docstrings."""

import asyncio
import time
from collections import Counter
from contextlib import suppress

import pytest

from shared.errors import QueueFull
from shared.job import QueueName, Tier
from shared.ports import Backend, Consumer
from tests.contract.conftest import BACKENDS, Maker
from tests.contract.performers import (
    PATIENCE,
    QUEUE,
    consume,
    count_waiting,
    message_for,
    new_job,
    next_of,
    nothing_comes,
    publish,
    taken,
)
from tests.support.wait_until import wait_until

# The broker's alone: which kind of Redis there is makes no difference.
pytestmark = pytest.mark.parametrize("kind", [kind for kind in BACKENDS if kind != "redis-cluster"], indirect=True)
PRIORITY, DEFAULT, FLEX = (QueueName("house-model", tier) for tier in Tier)


@pytest.mark.parametrize(
    "body", [b'{"messages":[]}', b"", None, b"x" * 256 * 1024], ids=["json", "empty", "none", "large"]
)
async def test_a_message_arrives_as_it_was_published(backend: Backend, body: bytes | None) -> None:
    job = new_job(mode="unary", seed=2**62, detached=True, metadata={"día": "\N{SNOWMAN}"})
    message = message_for(job, body, traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00")
    await backend.queue.publish(message)
    async with consume(backend) as consumer:
        assert (await next_of(consumer)).message == message


async def test_messages_of_a_queue_arrive_in_order(backend: Backend) -> None:
    ids = await publish(backend, *(new_job() for _ in range(20)))
    async with consume(backend) as consumer:
        assert await taken(consumer, 20) == ids


async def test_queues_are_apart(backend: Backend) -> None:
    other = QueueName("other-model", Tier.DEFAULT)
    await publish(backend, new_job(queue=other))
    (mine,) = await publish(backend, new_job())
    async with consume(backend) as consumer:
        assert await taken(consumer, 1) == [mine]
        assert await nothing_comes(consumer)


async def test_a_consumer_takes_from_further_queues(backend: Backend) -> None:
    other = QueueName("other-model", Tier.DEFAULT)
    waits = await publish(backend, *(new_job(queue=other) for _ in range(3)))
    async with consume(backend) as consumer:
        consumer.add({QUEUE: 1, other: 2})
        held = [await next_of(consumer) for _ in range(2)]
        assert [delivery.message.job.id for delivery in held] == waits[:2]
        assert await nothing_comes(consumer), "no more than its prefetch"
        await consumer.pause([other])
        await held[0].ack()
        assert await nothing_comes(consumer)
        await consumer.resume([other])
        assert await taken(consumer, 1) == waits[2:]


async def test_a_consumer_may_pause_a_queue_that_it_has_just_added(backend: Backend) -> None:
    other = QueueName("other-model", Tier.DEFAULT)
    waits = await publish(backend, new_job(queue=other))
    async with consume(backend) as consumer:
        consumer.add({other: 1})
        await consumer.pause([other])
        assert await nothing_comes(consumer)
        await consumer.resume([other])
        assert await taken(consumer, 1) == waits


async def test_a_waiting_consumer_gets_what_is_published_later(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    async with consume(one) as consumer, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(taken(consumer, 1))
        ids = await publish(other, new_job())
    assert waiting.result() == ids


async def test_what_is_acknowledged_does_not_come_again(backend: Backend) -> None:
    (first,) = await publish(backend, new_job())
    async with consume(backend) as consumer:
        assert await taken(consumer, 1) == [first]
    (second,) = await publish(backend, new_job())
    async with consume(backend) as consumer:
        assert await taken(consumer, 1) == [second]
        assert await nothing_comes(consumer)


async def test_what_is_unsettled_on_leaving_goes_back(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    ids = await publish(one, *(new_job() for _ in range(3)))
    async with consume(one) as leaver:
        for _ in ids:
            await next_of(leaver)
        async with consume(other) as consumer:
            assert await nothing_comes(consumer)
    async with consume(other) as consumer:
        assert sorted(await taken(consumer, 3)) == ids


async def test_what_is_unsettled_on_leaving_by_an_error_goes_back(backend: Backend) -> None:
    (job_id,) = await publish(backend, new_job())
    with pytest.raises(ZeroDivisionError):
        async with consume(backend) as consumer:
            await next_of(consumer)
            raise ZeroDivisionError
    async with consume(backend) as consumer:
        assert await taken(consumer, 1) == [job_id]


async def test_settling_after_leaving_is_not_an_error_and_the_message_comes_again(backend: Backend) -> None:
    (job_id,) = await publish(backend, new_job())
    async with consume(backend) as consumer:
        delivery = await next_of(consumer)
    await delivery.ack()
    async with consume(backend) as consumer:
        assert await taken(consumer, 1) == [job_id]


async def test_each_message_goes_to_one_consumer(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    ids = await publish(one, *(new_job() for _ in range(20)))
    async with consume(one, prefetch=10) as left, consume(other, prefetch=10) as right:
        found = [(await next_of(consumer)).message.job.id for consumer in (left, right) for _ in range(10)]
    assert sorted(found) == ids


async def test_retry_puts_back_at_once(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    (job_id,) = await publish(one, new_job())
    async with consume(one) as consumer:
        await (await next_of(consumer)).retry()
        again = await next_of(consumer)
        assert again.message.job.id == job_id
        await again.retry()
    async with consume(other) as consumer:
        assert await taken(consumer, 1) == [job_id]


async def test_retry_after_a_while_comes_no_sooner(backend: Backend) -> None:
    message = message_for(new_job(seed=7))
    await backend.queue.publish(message)
    async with consume(backend) as consumer:
        began = time.monotonic()
        await (await next_of(consumer)).retry(after=0.5)
        (other,) = await publish(backend, new_job())
        assert await taken(consumer, 1) == [other]
        again = await next_of(consumer)
    assert again.message == message
    assert time.monotonic() - began >= 0.49


async def test_a_dead_letter_stays_until_it_is_acknowledged(backend: Backend) -> None:
    (first,) = await publish(backend, new_job(deadline=0.1))
    async with backend.queue.dead_letters() as dead:
        await next_of(dead)
    async with backend.queue.dead_letters() as dead:
        assert await taken(dead, 1) == [first]
    (second,) = await publish(backend, new_job(deadline=0.1))
    async with backend.queue.dead_letters() as dead:
        assert await taken(dead, 1) == [second]
        assert await nothing_comes(dead)


async def test_each_dead_letter_goes_to_one_consumer(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    ids = await publish(one, *(new_job(deadline=0.1) for _ in range(6)))
    found: list[str] = []

    async def bury(backend: Backend) -> None:
        async with backend.queue.dead_letters() as dead:
            while True:
                found.extend(await taken(dead, 1))

    buriers = [asyncio.create_task(bury(backend)) for backend in (one, other)]
    await wait_until(lambda: len(found) >= 6, seen=lambda: found)
    for burier in buriers:
        burier.cancel()
    await asyncio.wait(buriers)
    assert sorted(found) == ids


async def test_a_message_whose_deadline_passes_becomes_a_dead_letter(backend: Backend) -> None:
    late = message_for(new_job(deadline=0.5))
    await backend.queue.publish(late)
    async with backend.queue.dead_letters() as dead:
        assert (await next_of(dead)).message == late
    (in_time,) = await publish(backend, new_job())
    async with consume(backend) as consumer:
        assert await taken(consumer, 1) == [in_time]
        assert await nothing_comes(consumer)


async def test_the_bound_refuses_and_accepts_nothing(maker: Maker) -> None:
    async with maker(queue_limit=3) as backend:
        accepted = await fill(backend)
        assert len(accepted) >= 3
        with pytest.raises(QueueFull):
            await publish(backend, new_job())
        (elsewhere,) = await publish(backend, new_job(queue=FLEX))
        assert await count_waiting(backend, QUEUE) == len(accepted)
        async with consume(backend, QUEUE, FLEX) as consumer:
            assert await taken(consumer, len(accepted) + 1) == [*accepted, elsewhere]
            assert await nothing_comes(consumer)
            assert await fill(backend), "there is room again"


async def fill(backend: Backend) -> list[str]:
    """Publish until the bound is reached; a broker may let a few more in than it says."""
    accepted: list[str] = []
    with suppress(QueueFull):
        for _ in range(40):
            accepted += await publish(backend, new_job())
    return accepted


async def test_earlier_queues_come_first(backend: Backend) -> None:
    ids = {
        queue: await publish(backend, new_job(queue=queue), new_job(queue=queue)) for queue in (FLEX, DEFAULT, PRIORITY)
    }
    async with consume(backend, PRIORITY, DEFAULT, FLEX) as consumer:
        with suppress(TimeoutError):  # A backend that hands over ahead of `next` needs a moment to do so.
            await wait_until(lambda: none_waits(backend), "deliveries ahead", within=0.5)
        assert await taken(consumer, 6) == ids[PRIORITY] + ids[DEFAULT] + ids[FLEX]


async def none_waits(backend: Backend) -> bool:
    return not any([await count_waiting(backend, queue) for queue in (PRIORITY, DEFAULT, FLEX)])


async def test_no_more_than_the_prefetch_is_unsettled(backend: Backend) -> None:
    ids = await publish(backend, *(new_job() for _ in range(3)))
    async with consume(backend, prefetch=2) as consumer:
        first, second = await next_of(consumer), await next_of(consumer)
        assert await nothing_comes(consumer)
        await second.ack()
        third = await next_of(consumer)
        assert [each.message.job.id for each in (first, second, third)] == ids


async def test_each_queue_has_its_own_prefetch(backend: Backend) -> None:
    await publish(backend, new_job(queue=PRIORITY), new_job(queue=PRIORITY))
    (flex,) = await publish(backend, new_job(queue=FLEX))
    async with consume(backend, PRIORITY, FLEX, prefetch=1) as consumer:
        held = {(await next_of(consumer)).message.job.queue for _ in range(2)}
        assert held == {PRIORITY, FLEX}
        assert await nothing_comes(consumer)
    async with consume(backend, FLEX) as consumer:
        assert await taken(consumer, 1) == [flex]


async def test_a_prefetch_may_be_given_for_each_queue(backend: Backend) -> None:
    await publish(backend, *(new_job(queue=queue) for queue in (PRIORITY, PRIORITY, FLEX, FLEX)))
    async with backend.queue.consume([PRIORITY, FLEX], [2, 1]) as consumer:
        held = [(await next_of(consumer)).message.job.queue for _ in range(3)]
        assert Counter(held) == {PRIORITY: 2, FLEX: 1}
        assert await nothing_comes(consumer)


async def test_depth_counts_what_waits_and_not_what_is_in_hand(backend: Backend) -> None:
    assert await count_waiting(backend, QUEUE) == 0
    await publish(backend, *(new_job() for _ in range(5)))
    await wait_until(lambda: depth_is(backend, 5))
    async with consume(backend, prefetch=2) as consumer:
        await next_of(consumer)
        delivery = await next_of(consumer)
        await wait_until(lambda: depth_is(backend, 3))
        await delivery.ack()
    await wait_until(lambda: depth_is(backend, 4))


async def depth_is(backend: Backend, wanted: int) -> bool:
    found = await count_waiting(backend, QUEUE)
    assert found == wanted
    return True


async def test_a_cancelled_next_takes_nothing_away(backend: Backend) -> None:
    """Cancelled at every stage: before anything is there, while it arrives, and after."""
    ids: list[str] = []
    found: list[str] = []
    async with consume(backend, prefetch=50) as consumer:
        for stage in range(25):
            publishing = asyncio.create_task(publish(backend, new_job()))
            with suppress(TimeoutError):
                async with asyncio.timeout(stage * 0.0003):
                    found.append((await consumer.next()).message.job.id)
            ids += await publishing
        found += await taken(consumer, 25 - len(found))
        assert await nothing_comes(consumer)
    assert sorted(found) == sorted(ids)


async def test_a_paused_consumer_leaves_the_rest_to_others_and_keeps_what_it_holds(
    replicas: tuple[Backend, Backend],
) -> None:
    one, other = replicas
    ids = await publish(one, *(new_job() for _ in range(3)))
    async with consume(one) as leaver:
        held = await next_of(leaver)
        await leaver.pause()
        async with consume(other) as consumer:
            assert await taken(consumer, 2) == ids[1:]
        await held.ack()
    async with consume(other) as consumer:
        assert await nothing_comes(consumer)


async def test_a_resumed_consumer_takes_again(replicas: tuple[Backend, Backend]) -> None:
    one, _ = replicas
    async with consume(one) as consumer:
        await consumer.pause()
        await consumer.pause()
        ids = await publish(one, *(new_job() for _ in range(3)))
        assert await nothing_comes(consumer)
        await consumer.resume()
        assert await taken(consumer, 3) == ids


async def test_who_takes_chooses_the_queue(backend: Backend) -> None:
    ids = await publish(backend, *(new_job(queue=queue) for queue in (FLEX, FLEX, PRIORITY)))
    async with consume(backend, PRIORITY, DEFAULT, FLEX) as consumer:
        await wait_until(lambda: at_hand(consumer, {PRIORITY: 1, FLEX: 2}))
        async with asyncio.timeout(PATIENCE):
            delivery = await consumer.next(lambda _: FLEX)
        assert delivery.message.job.id == ids[0]
        assert await at_hand(consumer, {PRIORITY: 1, FLEX: 1})


async def at_hand(consumer: Consumer, wanted: dict[QueueName, int]) -> bool:
    """Whether so much is at hand, in the consumer's order; nothing is taken."""
    found: list[dict[QueueName, int]] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await consumer.next(lambda waiting: found.append(dict(waiting)))
    assert found and list(found[-1].items()) == list(wanted.items()), found
    return True


async def test_who_chose_nothing_is_asked_again(backend: Backend) -> None:
    await publish(backend, new_job())
    answers: list[QueueName | None] = [None]
    asked = asyncio.Event()

    def choose(_: object) -> QueueName | None:
        asked.set()
        return answers[-1]

    async with consume(backend) as consumer, asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(consumer.next(choose))
        await asked.wait()
        asked.clear()
        (second,) = await publish(backend, new_job())
        await asked.wait()
        assert not taking.done()
        answers.append(QUEUE)
        consumer.choose_again()
    assert taking.result().message.job.id != second


async def test_one_queue_of_several_is_paused_and_resumed(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    flex = await publish(one, *(new_job(queue=FLEX) for _ in range(2)))
    async with consume(one, DEFAULT, FLEX) as consumer:
        await consumer.pause([FLEX])
        ids = await publish(one, new_job())
        assert await taken(consumer, 1) == ids
        assert await nothing_comes(consumer)
        async with consume(other, FLEX) as another:
            assert await taken(another, 1) == flex[:1]
        await consumer.resume([FLEX])
        assert await taken(consumer, 1) == flex[1:]
