"""How long a queue takes, learnt from how many of its jobs have been started."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.admission.drain_rate import ENOUGH, STALE, UNKNOWN, DrainRate
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rates(clock: Clock) -> DrainRate:
    return DrainRate(clock)


def test_nothing_is_known_at_first(rates: DrainRate) -> None:
    rates.observe("q", 1000, 5)
    assert (rates.estimate("q", 3), rates.trusted("q", 3)) == (None, None)
    assert rates.seconds_for("q", 1) == UNKNOWN


def test_two_looks_tell(rates: DrainRate, clock: Clock) -> None:
    rates.observe("q", 100, 10)
    clock.now = 2.0
    rates.observe("q", 104, 6)
    assert rates.estimate("q", 6) == 3.5
    assert rates.seconds_for("q", 4) == 2.0
    assert rates.estimate("other", 6) is None


def test_a_queue_that_was_empty_tells_only_how_fast_jobs_came(rates: DrainRate, clock: Clock) -> None:
    for clock.now in range(10):
        rates.observe("q", clock.now, 0)
    assert rates.estimate("q", 0) is None


def test_a_queue_that_stands_still_promises_nothing(rates: DrainRate, clock: Clock) -> None:
    for clock.now in (0.0, 2.0):
        rates.observe("q", 7, 5)
    assert rates.estimate("q", 0) is None
    assert rates.seconds_for("q", 1) == UNKNOWN


def test_looks_that_are_too_close_are_one(rates: DrainRate, clock: Clock) -> None:
    rates.observe("q", 0, 5)
    clock.now = 0.1
    rates.observe("q", 100, 5)
    assert rates.estimate("q", 0) is None
    clock.now = 2.0
    rates.observe("q", 4, 5)
    assert rates.estimate("q", 0) == 0.5


def test_a_store_that_counts_from_the_start_again_is_believed(rates: DrainRate, clock: Clock) -> None:
    rates.observe("q", 1000, 5)
    clock.now = 1.0
    rates.observe("q", 0, 5)
    clock.now = 2.0
    rates.observe("q", 4, 5)
    assert rates.estimate("q", 0) == 0.25


def test_newer_looks_count_more(rates: DrainRate, clock: Clock) -> None:
    for clock.now in range(10):
        rates.observe("q", clock.now, 5)
    slow = rates.seconds_for("q", 10)
    for clock.now in range(10, 30):
        rates.observe("q", clock.now * 100, 5)
    assert rates.seconds_for("q", 10) < slow / 50


def test_few_jobs_or_old_looks_are_not_trusted(rates: DrainRate, clock: Clock) -> None:
    rates.observe("q", 0, 100)
    clock.now = 2.0
    rates.observe("q", ENOUGH - 2, 90)
    assert (rates.trusted("q", 0), rates.estimate("q", 0)) == (None, 0.25)
    clock.now = 4.0
    rates.observe("q", ENOUGH + 6, 90)
    assert rates.trusted("q", 0) is not None
    clock.now += STALE + 1
    assert rates.trusted("q", 0) is None


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000), st.integers(0, 100)), max_size=30))
def test_an_estimate_is_never_negative(looks: list[tuple[float, int, int]]) -> None:
    clock = Clock()
    rates = DrainRate(clock)
    for step, started, waiting in looks:
        clock.now += step
        rates.observe("q", started, waiting)
    assert rates.seconds_for("q", 1) > 0
    assert (rates.estimate("q", 3) or 1) > 0
