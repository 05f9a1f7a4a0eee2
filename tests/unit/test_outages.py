"""An outage is logged at its start and at its end, however many steps wait for it."""

import asyncio
from contextlib import suppress

from structlog.testing import capture_logs

from shared.errors import BrokerUnavailable, StoreUnavailable
from shared.outages import Outage
from shared.retry import retry_while_unavailable
from tests.support.clock import Clock
from tests.support.wait_until import wait_until


def test_an_outage_begins_once_and_ends_once() -> None:
    clock = Clock()
    outage = Outage(clock)
    assert outage.ends() is None
    assert [outage.begins(), outage.begins()] == [True, False]
    clock.now += 12
    assert [outage.ends(), outage.ends()] == [12.0, None]
    assert outage.begins()


class Part:
    """Answers once it is up."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.asked = 0
        self.up = False

    async def step(self) -> str:
        self.asked += 1
        if not self.up:
            raise self._error
        return "done"


async def test_many_steps_that_wait_for_a_part_log_one_outage() -> None:
    store = Part(StoreUnavailable("Redis does not answer."))
    with capture_logs() as logs:
        steps = [asyncio.create_task(retry_while_unavailable(store.step, pauses=(0.001, 0.001))) for _ in range(20)]
        await wait_until(lambda: store.asked >= 100, "every step to fail several times")
        store.up = True
        assert set(await asyncio.gather(*steps)) == {"done"}
    assert [line["event"] for line in logs] == ["backend.unavailable", "backend.back"]
    assert {line["part"] for line in logs} == {"store"}


async def test_an_outage_that_no_step_waits_for_is_logged_again() -> None:
    broker = Part(BrokerUnavailable("RabbitMQ does not answer."))
    with capture_logs() as logs:
        for _ in range(2):
            with suppress(BrokerUnavailable):
                await retry_while_unavailable(broker.step, until=0)
    assert [line["event"] for line in logs] == ["backend.unavailable"] * 2
