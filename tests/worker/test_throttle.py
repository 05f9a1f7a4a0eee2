"""An overloaded engine gets fewer requests, later, and all of them in the end."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from structlog.testing import capture_logs

from shared.errors import EngineOverloaded
from shared.job import JobStatus, Tier
from tests.support.wait_until import wait_until
from tests.worker.scripted import ANSWER, SCRIPTS, Bench, ScriptedEngine, answer, open_bench, text_of
from worker import throttle as module
from worker.engines.base import Chunk
from worker.slots import Slots
from worker.throttle import Throttle


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JITTER", 0.0)
    monkeypatch.setattr(module, "SHORTEST_PAUSE", 0.0)


class Server:
    """Answers `capacity` requests at a time, on command, and refuses all others."""

    def __init__(self, capacity: int, retry_after: float | None = 0.01) -> None:
        self.capacity = capacity
        self.retry_after = retry_after
        self.running = 0
        self.refusals = 0
        self.most = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def ask(self) -> str:
        if self.running >= self.capacity:
            self.refusals += 1
            raise EngineOverloaded("Later.", retry_after=self.retry_after)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go_on.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        return "answer"


async def test_every_request_is_answered_in_the_end() -> None:
    server, throttle = Server(3), Throttle(32)
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(throttle.run(server.ask) for _ in range(100)))
    assert answers == ["answer"] * 100
    assert server.most == 3
    assert server.refusals < 100


async def test_while_the_engine_pauses_nothing_is_sent() -> None:
    now = 0.0
    server, throttle = Server(0, retry_after=30), Throttle(8, clock=lambda: now)
    calls = [asyncio.create_task(throttle.run(server.ask)) for _ in range(8)]
    await wait_until(lambda: server.refusals == 1, "one to be refused")
    calls.append(asyncio.create_task(throttle.run(server.ask)))
    await asyncio.sleep(0)
    assert (server.refusals, throttle.limit) == (1, 1)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


@pytest.mark.parametrize(("asked", "pause"), [(3.0, 3.0), (3600.0, 60.0), (0.0, 0.0), (None, 0.5)])
async def test_a_pause_is_as_long_as_asked_but_bounded(asked: float | None, pause: float) -> None:
    throttle = Throttle(8)
    assert throttle._pause(EngineOverloaded("Later.", retry_after=asked)) == pause  # pyright: ignore[reportPrivateUsage]


async def test_an_engine_that_refuses_everything_for_a_while_is_back_at_its_limit_soon() -> None:
    server, throttle = Server(0, retry_after=0.001), Throttle(64)
    calls = [asyncio.create_task(throttle.run(server.ask)) for _ in range(64)]
    async with asyncio.timeout(60):
        await wait_until(lambda: throttle.limit == 1, "the limit to fall")
        server.capacity = 64
        await asyncio.gather(*calls)
        await asyncio.gather(*(throttle.run(server.ask) for _ in range(256)))
    assert throttle.limit == 64


async def test_the_limit_of_an_engine_that_serves_some_is_found_and_kept_to() -> None:
    changes: list[int] = []
    server = Server(4, retry_after=0.001)
    throttle = Throttle(64, lambda: changes.append(throttle.limit))
    async with asyncio.timeout(60):
        await asyncio.gather(*(throttle.run(server.ask) for _ in range(400)))
    assert min(changes) < 8
    assert server.refusals < 200


async def test_a_cancelled_waiting_request_leaves_the_queue() -> None:
    server, throttle = Server(1), Throttle(1)
    server.go_on.clear()
    first, second, third = (asyncio.create_task(throttle.run(server.ask)) for _ in range(3))
    await wait_until(lambda: server.running == 1, "the first to run")
    second.cancel()
    server.go_on.set()
    async with asyncio.timeout(60):
        assert await first == await third == "answer"
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_overload_is_in_the_log_once_a_minute() -> None:
    now = 0.0
    server, throttle = Server(0, retry_after=0.001), Throttle(1, clock=lambda: now)
    with capture_logs() as logs:
        for _ in range(10):
            server.capacity = 0
            call = asyncio.create_task(throttle.run(server.ask))
            await wait_until(lambda: server.refusals > 0, "a refusal")
            server.capacity = 1
            now += 10
            await call
            server.refusals = 0
    assert [each["event"] for each in logs] == ["engine.overloaded", "engine.answers_again"] * 2


async def test_other_errors_are_raised() -> None:
    throttle = Throttle(2)

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await throttle.run(fail)
    assert await throttle.run(Server(1).ask) == "answer"


def test_a_worker_takes_no_more_jobs_than_its_engine_does() -> None:
    slots = Slots(8, reserved=0.25, patience=60)
    slots.limit = 2
    slots.take(Tier.DEFAULT)
    assert slots.admits(Tier.DEFAULT)
    slots.take(Tier.DEFAULT)
    assert not slots.admits(Tier.DEFAULT)
    assert not slots.admits(Tier.FLEX)
    slots.limit = 8
    assert slots.admits(Tier.PRIORITY)


def test_waiting_flex_jobs_do_not_block_higher_tiers() -> None:
    slots = Slots(3, reserved=0.25, patience=60)
    slots.limit = 1
    slots.take(Tier.FLEX)
    slots.take(Tier.FLEX)
    assert not slots.admits(Tier.FLEX)
    assert slots.admits(Tier.DEFAULT)
    assert slots.lacking({Tier.PRIORITY: 3}, leaving=0) == 0
    slots.take(Tier.DEFAULT)
    assert not slots.admits(Tier.PRIORITY)
    assert slots.lacking({Tier.PRIORITY: 3}, leaving=0) == 1, "the engine has no room for more"
    assert slots.lacking({Tier.DEFAULT: 3}, leaving=0) == 0


async def test_the_highest_waiting_tier_is_sent_first() -> None:
    server, throttle = Server(1), Throttle(1)
    server.go_on.clear()
    answered: list[Tier] = []

    async def ask(tier: Tier) -> None:
        await throttle.run(server.ask, tier)
        answered.append(tier)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(ask(Tier.DEFAULT))
        await wait_until(lambda: server.running == 1, "the first to run")
        for tier in (Tier.FLEX, Tier.DEFAULT, Tier.PRIORITY):
            group.create_task(ask(tier))
        await asyncio.sleep(0)
        server.go_on.set()
    assert answered == [Tier.DEFAULT, Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX]


# ── under an execution ──


async def overloaded_seven_times(engine: ScriptedEngine, time_asked: int) -> AsyncGenerator[Chunk, None]:
    if time_asked < 8:
        raise EngineOverloaded("Rate limit reached.", retry_after=0.001)
    async for each in answer(engine, time_asked):
        yield each


async def overloaded_in_the_middle(engine: ScriptedEngine, time_asked: int) -> AsyncGenerator[Chunk, None]:
    async for each in answer(engine, time_asked):
        yield each
        if time_asked == 1:
            raise EngineOverloaded("Rate limit reached.", retry_after=0.001)


async def overloaded_for_ever(_: ScriptedEngine, __: int) -> AsyncGenerator[Chunk, None]:
    raise EngineOverloaded("Rate limit reached.", retry_after=0.001)
    yield {}


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Bench]:
    for script in (overloaded_seven_times, overloaded_in_the_middle, overloaded_for_ever):
        monkeypatch.setitem(SCRIPTS, script.__name__, script)
    async with open_bench() as bench:
        yield bench


@pytest.mark.parametrize("unary", [True, False])
async def test_overload_is_not_a_failed_try(bench: Bench, unary: bool) -> None:
    job = await bench.submit("overloaded_seven_times", unary=unary)

    delivery = await bench.run()

    record = await bench.record(job)
    assert (record.status, record.attempt, record.tries) == (JobStatus.COMPLETED, 1, 0)
    assert delivery.settled == ["ack"]
    assert unary or text_of(await bench.frames(job)) == "".join(ANSWER)


async def test_overload_during_an_answer_is_a_failed_try(bench: Bench) -> None:
    job = await bench.submit("overloaded_in_the_middle")

    await bench.run_until(JobStatus.COMPLETED, job)

    assert (await bench.record(job)).attempt == 2
    assert text_of(await bench.frames(job)) == "".join(ANSWER)


async def test_a_deadline_ends_the_wait_with_its_reason(bench: Bench) -> None:
    job = await bench.submit("overloaded_for_ever", deadline=0.3)

    await bench.run()

    record = await bench.record(job)
    assert (record.status, record.tries) == (JobStatus.EXPIRED, 0)
    assert record.error is not None
    assert "Rate limit reached." in record.error["message"]
