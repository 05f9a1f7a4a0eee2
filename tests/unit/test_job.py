"""The table of a job's life."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.job import (
    ENDINGS,
    TERMINAL,
    TRANSITIONS,
    IllegalTransition,
    Job,
    JobEvent,
    JobStatus,
    QueueName,
    Tier,
    advance,
    new_job_id,
    sources,
)

EVENTS = st.sampled_from(list(JobEvent))


@given(st.lists(EVENTS))
def test_a_life_has_one_end(events: list[JobEvent]) -> None:
    """Whatever is asked of it, a job moves along the table; from its end only a person's retry moves it."""
    status = JobStatus.QUEUED
    for event in events:
        legal = (status, event) in TRANSITIONS
        try:
            moved = advance(status, event)
        except IllegalTransition:
            assert not legal
            continue
        assert legal
        assert not status.terminal or event is JobEvent.RETRY
        status = moved


@given(st.sampled_from(list(JobStatus)), EVENTS)
def test_sources_and_advance_are_one_table(status: JobStatus, event: JobEvent) -> None:
    assert (status in sources(event)) == ((status, event) in TRANSITIONS)


def test_an_illegal_move_says_what_it_was() -> None:
    with pytest.raises(IllegalTransition, match="completed cannot claim"):
        advance(JobStatus.COMPLETED, JobEvent.CLAIM)


def test_only_a_job_that_runs_can_complete() -> None:
    assert sources(JobEvent.COMPLETE) == (JobStatus.IN_PROGRESS,)


def test_every_terminal_status_has_the_event_that_leads_there() -> None:
    assert set(ENDINGS) == TERMINAL
    for status, event in ENDINGS.items():
        assert {advance(source, event) for source in sources(event)} == {status}


def test_every_status_can_be_reached_and_every_other_one_left() -> None:
    assert set(TRANSITIONS.values()) == set(JobStatus)
    by_themselves = {status for status, event in TRANSITIONS if event is not JobEvent.RETRY}
    assert by_themselves == set(JobStatus) - TERMINAL
    assert sources(JobEvent.RETRY) == (JobStatus.FAILED,)


@given(st.lists(st.floats(1.6e9, 4e9), min_size=2, unique_by=lambda moment: int(moment * 1000)))
def test_ids_sort_by_age(moments: list[float]) -> None:
    ids = [new_job_id(moment) for moment in moments]
    assert sorted(ids) == [new for _, new in sorted(zip(moments, ids, strict=True))]


def test_ids_are_never_given_twice() -> None:
    ids = {new_job_id(1.7e9) for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(each) == len("chatcmpl-") + 32 for each in ids)


def test_a_jobs_queue_is_its_model_and_tier() -> None:
    job = Job("chatcmpl-1", "tenant", "house-model", Tier.FLEX, "stream", 1.0, 2.0, 3.0)
    assert job.queue == QueueName("house-model", Tier.FLEX)
    assert str(job.queue) == "house-model.flex"
