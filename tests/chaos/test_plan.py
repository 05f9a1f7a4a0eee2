"""The plan of faults is the same for the same seed, and contains only faults that the campaign can handle."""

from itertools import pairwise

import pytest

from tests.chaos.plan import EVERYTHING, ONLY_KILLS, ONLY_STOPS, REST, Kind, make_plan


def test_a_seed_and_a_length_make_one_plan() -> None:
    assert make_plan(7, 300) == make_plan(7, 300)
    assert make_plan(7, 300) != make_plan(8, 300)


def test_a_longer_plan_begins_as_the_shorter_one_does() -> None:
    short = make_plan(7, 60)
    assert make_plan(7, 300)[: len(short)] == short


@pytest.mark.parametrize("seed", range(20))
def test_faults_come_in_order_and_leave_the_ends_of_the_run_alone(seed: int) -> None:
    moments = [fault.at for fault in make_plan(seed, 60)]
    assert moments == sorted(moments)
    assert moments[0] >= 2.0 and moments[-1] <= 58.0
    assert max(later - earlier for earlier, later in pairwise(moments)) <= EVERYTHING.gap[1] + 0.02


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", REST)
def test_what_takes_its_time_to_come_back_is_given_it(seed: int, kind: Kind) -> None:
    moments = [fault.at for fault in make_plan(seed, 600) if fault.kind is kind]
    assert all(later - earlier > REST[kind] - 0.02 for earlier, later in pairwise(moments))


def test_a_long_plan_has_every_kind_of_its_mix_and_no_other() -> None:
    assert {fault.kind for fault in make_plan(0, 1200)} == set(EVERYTHING.weights) == set(Kind)
    assert {fault.kind for fault in make_plan(0, 1200, ONLY_STOPS)} == {Kind.WORKER_STOPPED}
    assert {fault.kind for fault in make_plan(0, 1200, ONLY_KILLS)} == {Kind.WORKER_KILLED}


def test_a_run_too_short_for_any_fault_has_none() -> None:
    assert make_plan(0, 3) == []
