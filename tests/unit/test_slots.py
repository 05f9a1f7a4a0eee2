"""Whose the next free slot is."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shared.job import Tier
from tests.support.clock import Clock
from worker.slots import TIERS, Slots

PRIORITY, DEFAULT, FLEX = TIERS
ALL = list(TIERS)
PATIENCE = 60.0


def slots_of(count: int, *, reserved: float = 0.0, clock: Clock | None = None) -> Slots:
    return Slots(count, reserved=reserved, patience=PATIENCE, clock=clock or Clock())


def test_higher_tiers_come_first() -> None:
    slots = slots_of(4)
    assert slots.choose(ALL) is PRIORITY
    assert slots.choose([FLEX, DEFAULT]) is DEFAULT
    assert slots.choose([FLEX]) is FLEX
    assert slots.choose([]) is None


def test_a_full_worker_starts_nothing() -> None:
    slots = slots_of(1)
    slots.take(DEFAULT)
    assert slots.choose(ALL) is None
    slots.free(DEFAULT)
    assert slots.choose(ALL) is PRIORITY


def test_flex_leaves_the_reserved_slots_to_others() -> None:
    slots = slots_of(8, reserved=0.25)
    for _ in range(6):
        assert slots.choose([FLEX]) is FLEX
        slots.take(FLEX)
    assert slots.choose([FLEX]) is None
    assert slots.choose([FLEX, DEFAULT]) is DEFAULT


def test_how_many_of_a_tier_may_run_at_once() -> None:
    slots = slots_of(8, reserved=0.25)
    assert [slots.most_of(tier) for tier in TIERS] == [8, 8, 6]


def test_flex_has_one_slot_at_least() -> None:
    for count in (1, 2, 3):
        assert slots_of(count, reserved=0.99).choose([FLEX]) is FLEX


def test_flex_that_was_passed_over_for_too_long_has_a_turn_and_then_waits_again() -> None:
    clock = Clock()
    slots = slots_of(10, clock=clock)
    slots.take(DEFAULT, ALL)
    assert slots.choose(ALL) is PRIORITY

    clock.now += PATIENCE
    assert slots.choose(ALL) is FLEX
    assert slots.take(FLEX, ALL), "out of order"
    assert slots.choose(ALL) is PRIORITY
    slots.take(PRIORITY, ALL)
    clock.now += PATIENCE / 2
    assert slots.choose(ALL) is PRIORITY
    clock.now += PATIENCE / 2
    assert slots.choose(ALL) is FLEX


def test_flex_with_nobody_before_it_is_in_order() -> None:
    assert not slots_of(4).take(FLEX, [FLEX])


def test_as_many_flex_jobs_go_as_jobs_of_higher_tiers_lack_a_slot() -> None:
    slots = slots_of(4)
    for tier in (FLEX, FLEX, FLEX, DEFAULT):
        slots.take(tier)
    assert slots.lacking({FLEX: 9}, 0) == 0
    assert slots.lacking({DEFAULT: 1, PRIORITY: 1, FLEX: 9}, 0) == 2
    assert slots.lacking({DEFAULT: 1, PRIORITY: 1}, 1) == 1
    assert slots.lacking({DEFAULT: 9}, 0) == 3
    assert slots.lacking({DEFAULT: 9}, 3) == 0


@given(
    count=st.integers(1, 12),
    reserved=st.floats(0, 0.99),
    steps=st.lists(st.tuples(st.sets(st.sampled_from(ALL)), st.booleans()), max_size=60),
)
def test_never_more_than_there_are_and_flex_never_in_the_reserved_ones(
    count: int, reserved: float, steps: list[tuple[set[Tier], bool]]
) -> None:
    slots = slots_of(count, reserved=reserved)
    running: Counter[Tier] = Counter()
    for waiting, ends in steps:
        if (tier := slots.choose(waiting)) is not None:
            assert tier in waiting
            slots.take(tier, waiting)
            running[tier] += 1
        assert running.total() <= count
        assert running[FLEX] <= max(1, count - int(count * reserved))
        if ends and running.total():
            over = next(iter(running.elements()))
            running[over] -= 1
            slots.free(over)


@given(count=st.integers(1, 8), durations=st.lists(st.floats(0.1, PATIENCE), min_size=50, max_size=50))
def test_flex_moves_however_much_of_higher_tiers_comes(count: int, durations: list[float]) -> None:
    clock = Clock()
    slots = slots_of(count, clock=clock)
    moved = 0.0
    for duration in durations:
        tier = slots.choose(ALL)
        assert tier is not None
        slots.take(tier, ALL)
        moved = clock.now if tier is FLEX else moved
        clock.now += duration
        slots.free(tier)
        assert clock.now - moved <= 3 * PATIENCE
