"""How long a queue takes, learnt from jobs that move up in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.drain_rate import REMEMBERED, UNKNOWN, DrainRate
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rates(clock: Clock) -> DrainRate:
    return DrainRate(clock)


def test_nothing_is_known_at_first(rates: DrainRate) -> None:
    assert rates.estimate("q", 3) is None
    assert rates.seconds_for("q", 1) == UNKNOWN


def test_two_looks_at_one_job_tell(rates: DrainRate, clock: Clock) -> None:
    rates.observe("q", "job", 10)
    clock.now = 2.0
    rates.observe("q", "job", 6)
    assert rates.estimate("q", 6) == 3.5
    assert rates.seconds_for("q", 4) == 2.0
    assert rates.estimate("other", 6) is None


def test_a_queue_that_stands_still_tells_nothing(rates: DrainRate, clock: Clock) -> None:
    for clock.now, position in ((0.0, 5), (1.0, 5), (2.0, 7)):
        rates.observe("q", "job", position)
    assert rates.estimate("q", 5) is None


def test_newer_looks_count_more_with_time(rates: DrainRate, clock: Clock) -> None:
    for clock.now, position in enumerate(range(100, 90, -1)):
        rates.observe("q", "slow", position)
    slow = rates.seconds_for("q", 10)
    for clock.now, position in enumerate(range(1000, 0, -100), start=20):
        rates.observe("q", "fast", position)
    assert rates.seconds_for("q", 10) < slow / 50


def test_only_so_many_jobs_are_remembered(rates: DrainRate, clock: Clock) -> None:
    rates.observe("q", "first", 10)
    for number in range(REMEMBERED):
        rates.observe("q", str(number), number)
    clock.now = 1.0
    rates.observe("q", "first", 0)
    assert rates.estimate("q", 0) is None


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from("ab"), st.integers(0, 100)), max_size=30))
def test_an_estimate_is_never_negative(looks: list[tuple[float, str, int]]) -> None:
    clock = Clock()
    rates = DrainRate(clock)
    for step, job, position in looks:
        clock.now += step
        rates.observe("q", job, position)
    assert rates.seconds_for("q", 1) > 0
