"""A bucket that drains, whatever is done to it in whatever order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.limits import WINDOW, Allowance, Count, Limits, allowance, drained, fits, seconds_until_fits

LIMITS = Limits(requests_per_minute=60, tokens_per_minute=1000, concurrency=3)
HOUR = 3600.0


def test_the_whole_limit_may_be_used_at_once_and_comes_back_evenly() -> None:
    count = Count()
    limits = Limits(requests_per_minute=60)
    taken = [count.take(limits, f"{number}", 0, HOUR, 100.0).refused for number in range(61)]
    assert taken == [None] * 60 + ["requests"]
    assert count.take(limits, "early", 0, HOUR, 100.9).refused == "requests"
    assert count.take(limits, "late", 0, HOUR, 101.0).refused is None
    assert count.take(limits, "next", 0, HOUR, 101.0).refused == "requests"


def test_how_things_stand() -> None:
    assert allowance(0, 60) == Allowance(60, 60, 0.0)
    stands = allowance(45.5, 60)
    assert (stands.limit, stands.remaining, stands.reset) == (60, 14, 45.5)
    assert allowance(90, 60).remaining == 0


@given(used=st.floats(0, 5000), limit=st.integers(1, 2000), more=st.integers(0, 2000))
def test_who_comes_back_when_told_gets_in(used: float, limit: int, more: int) -> None:
    if more > limit:
        return
    later = drained(used, limit, seconds_until_fits(used, limit, more))
    assert fits(later, limit, more)
    assert seconds_until_fits(used, limit, more) == 0 or not fits(used, limit, more + 1)


steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "charge", "refund"]),
        st.integers(0, 8),
        st.integers(0, 600),
        st.floats(0, 5),
    ),
    max_size=60,
)


@given(steps)
def test_no_more_is_admitted_than_the_limits_allow(script: list[tuple[str, int, int, float]]) -> None:
    """Admitted estimates never exceed the bucket and what has flowed out of it since the beginning."""
    count, now, admitted = Count(), 1000.0, {"tokens": 0, "requests": 0}
    for action, job, tokens, passed in script:
        now += passed
        if action == "take":
            known = str(job) in count.jobs
            verdict = count.take(LIMITS, str(job), tokens, now + HOUR, now)
            if verdict.refused is None and not known:
                admitted["tokens"] += tokens
                admitted["requests"] += 1
        elif action == "charge":
            count.charge(LIMITS, str(job), None, now)
        elif str(job) in count.jobs:
            admitted["tokens"] -= count.jobs[str(job)].tokens
            admitted["requests"] -= 1
            count.refund(LIMITS, str(job), now)
        elapsed = (now - 1000.0) / WINDOW
        assert admitted["requests"] <= 60 * (1 + elapsed) + 0.01
        assert admitted["tokens"] <= 1000 * (1 + elapsed) + 0.01
        assert len(count.jobs) <= 3


def test_a_clock_that_is_set_back_gives_nothing_away() -> None:
    count = Count()
    for number in range(60):
        count.take(LIMITS, f"{number}", 0, HOUR, 1000.0)
        count.charge(LIMITS, f"{number}", None, 1000.0)
    assert count.take(LIMITS, "x", 0, HOUR, 500.0).refused == "requests"
    assert count.take(LIMITS, "x", 0, HOUR, 1000.0).refused == "requests"


def test_a_count_that_says_nothing_may_be_forgotten() -> None:
    count = Count()
    count.take(LIMITS, "job", 10, HOUR, 0.0)
    assert not count.idle(LIMITS, 1.0)
    count.charge(LIMITS, "job", 0, 1.0)
    assert count.idle(LIMITS, 2.0)


@pytest.mark.parametrize("limits", [Limits(requests_per_minute=1), Limits(tokens_per_minute=1), Limits(concurrency=1)])
def test_what_is_counted(limits: Limits) -> None:
    assert limits.counted
    assert not Limits(models=("a",)).counted
